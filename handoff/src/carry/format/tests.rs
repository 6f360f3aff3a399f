use super::*;
use crate::frame::write_value;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Now(String);
#[derive(Serialize, Deserialize)]
struct Before(u8);
#[derive(Serialize, Deserialize)]
struct Other(u8);

impl Carried for Now {
    const NAME: &'static str = "now";
    const VERSION: u32 = 2;
}

impl Carried for Before {
    const NAME: &'static str = "now";
    const VERSION: u32 = 1;
}

impl Carried for Other {
    const NAME: &'static str = "other";
    const VERSION: u32 = 2;
}

impl From<Before> for Now {
    fn from(before: Before) -> Self {
        Self(before.0.to_string())
    }
}

#[test]
fn a_format_is_read_by_name_and_version_both() {
    let reads = Reads::<Now>::new().from::<Before>();
    assert_eq!(reads.to_string(), "now version 2, now version 1");
    let own = reads.decoder("set", &Format::of::<Now>()).expect("its own");
    assert_eq!((own.decode)(&[1, b'x']), Ok(Now("x".into())));
    assert_eq!(own.older, None);
    let before = reads.decoder("set", &Format::of::<Before>()).expect("it was said");
    assert_eq!((before.decode)(&[7]), Ok(Now("7".into())));
    assert_eq!(before.older.as_deref(), Some("now version 1"));
    let later = Format { version: 3, ..Format::of::<Now>() };
    for (format, words) in [(Format::of::<Other>(), "other version 2"), (later, "now version 3")] {
        let Err(error) = reads.decoder("set", &format) else { panic!("{words} is read") };
        let expected = CarryError::Unreadable {
            set: "set".into(),
            arrived: words.into(),
            reads: "now version 2, now version 1".into(),
        };
        assert_eq!(format!("{error:?}"), format!("{expected:?}"));
    }
}

#[test]
fn what_is_left_over_is_damage() {
    assert_eq!(read_value::<Now>(&[1, b'x', 0]), Err("1 bytes are left over".into()));
}

/// Of whatever length the rest is: the limits go by steps.
#[test]
fn whatever_is_written_is_read() {
    for length in [0, 10, 250, 251, 0xfff, 0x1000, 0x1_ffff, 0x2_0000, 0x3f_ffff, 0x40_0000] {
        let value = (
            vec![u128::from(u8::MAX); length / 18],
            "é".repeat(length / 2),
            vec![Some(0_u64); length],
        );
        let mut bytes = Vec::new();
        write_value(&value, &mut bytes).expect("it is written");
        assert!(read_value(&bytes) == Ok(value), "{length}");
    }
}

/// Where memory is asked for first, this would end the process.
#[test]
fn a_length_beyond_all_memory_is_damage() {
    for length in [1_u64 << 32, 1 << 60, u64::MAX] {
        for rest in [0, 100, 0x1000, 0x2_0000, 0x40_0000, 0x100_0000] {
            let mut bytes = vec![0xfd];
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.resize(bytes.len() + rest, b'x');
            assert!(read_value::<String>(&bytes).is_err());
            assert!(read_value::<crate::carry::wire::Bytes>(&bytes).is_err());
            // These ask for memory as they go.
            if rest < 0x2_0000 {
                assert!(read_value::<Vec<String>>(&bytes).is_err());
                assert!(read_value::<Vec<u64>>(&bytes).is_err());
                assert!(read_value::<std::collections::HashMap<u64, u64>>(&bytes).is_err());
            }
        }
    }
}
