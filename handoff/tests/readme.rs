//! The examples are short, and the README quotes them.

use std::fs;
use std::path::Path;

#[test]
fn each_example_is_short_and_is_quoted_by_the_readme() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(package.join("../README.md")).expect("there is a README");
    let blocks = rust_blocks(&readme);
    for name in ["todo/src/main", "notes", "echo", "supervise", "adopt"] {
        let file = format!("examples/{name}.rs");
        let example = fs::read_to_string(package.join(&file)).expect("there is the example");
        let lines = example.lines().count();
        assert!(lines < 100, "{file} has {lines} lines");
        let quotes = |block: &&String| example.contains(block.as_str());
        let quoted: Vec<_> = blocks.iter().filter(quotes).collect();
        assert_eq!(quoted.len(), 1, "README.md quotes {file} in one block, to the letter");
        assert!(quoted[0].lines().count() > 20, "README.md quotes too little of {file}");
        let named = file.strip_suffix("/src/main.rs").unwrap_or(&file);
        assert!(readme.contains(&format!("`handoff/{named}`")), "README.md does not name {named}");
    }
}

/// The Rust code in the text, without the lines that rustdoc hides.
fn rust_blocks(text: &str) -> Vec<String> {
    let blocks = text.split("```rust").skip(1).filter_map(|rest| rest.split_once("\n```"));
    let shown = |line: &&str| !line.starts_with("# ");
    blocks
        .map(|(block, _)| block.lines().skip(1).filter(shown).map(|line| line.to_owned() + "\n"))
        .map(Iterator::collect)
        .collect()
}
