use handoff::carry::Memory;

fn main() -> handoff::Result<()> {
    Memory::new().put_value("hot", &vec!["a key".to_owned()])
}
