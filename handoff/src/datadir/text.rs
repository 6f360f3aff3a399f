//! What the texts in a data directory have in common: a checksum at the end, and names.

/// The text with its checksum behind it.
pub(super) fn sealed(mut text: String) -> String {
    let checksum = blake3::hash(text.as_bytes());
    text.push_str(&format!("checksum {checksum}\n"));
    text
}

/// The text without the checksum, once that matches.
pub(super) fn opened(text: &str) -> Result<&str, &'static str> {
    const CHECKSUM_LINE: usize = "checksum ".len() + 64 + 1;
    let split = text.len().checked_sub(CHECKSUM_LINE).ok_or("it is cut short")?;
    let (text, checksum) = text.split_at_checked(split).ok_or("it is cut short")?;
    let expected = format!("checksum {}\n", blake3::hash(text.as_bytes()));
    if checksum == expected { Ok(text) } else { Err("its checksum does not match") }
}

/// A name on one line.
pub(super) fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

/// The name that was written as `escaped`.
pub(super) fn plain(escaped: &str) -> String {
    let mut name = String::new();
    let mut characters = escaped.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => name.push(match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                _ => '\\',
            }),
            other => name.push(other),
        }
    }
    name
}
