use serde::{Deserialize, Serialize};

use super::*;
use crate::carry::pair::{assert_closed, inode};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hot(Vec<String>);

impl Carried for Hot {
    const NAME: &'static str = "test.hot";
    const VERSION: u32 = 2;
}

#[derive(Serialize, Deserialize)]
struct OldHot(u8);

impl Carried for OldHot {
    const NAME: &'static str = "test.hot";
    const VERSION: u32 = 1;
}

impl From<OldHot> for Hot {
    fn from(old: OldHot) -> Self {
        Self(vec![old.0.to_string()])
    }
}

fn hot() -> Hot {
    Hot(vec!["a".into(), "b".into()])
}

/// Cut by one byte.
fn damaged() -> Memory {
    let memory = Memory::new();
    let mut bytes = Vec::new();
    write_value(&hot(), &mut bytes).expect("it is written");
    bytes.pop();
    let sealed = SealedMemory::of_bytes(&bytes).expect("memory");
    let piece = Piece { format: Some(Format::of::<Hot>()), memory: sealed };
    memory.state().pieces.insert("hot".into(), piece);
    memory
}

#[test]
fn an_older_value_is_converted_and_that_is_told() {
    let memory = Memory::new();
    memory.put_value("hot", &OldHot(7)).expect("memory");
    let reads = Reads::<Hot>::new().from::<OldHot>();
    let value = memory.value("hot", &reads).expect("it is read");
    assert_eq!(value, Some(Hot(vec!["7".into()])));
    let fate = memory.arrive("cache", &mut Vec::new()).expect("it is read");
    assert_eq!(fate, CarryFate::Converted { from: "test.hot version 1".into() });
    assert_eq!(memory.value("no such", &reads).expect("there is none"), None);
    assert_eq!(memory.fate(), CarryFate::Taken);
}

#[test]
fn what_cannot_be_read_is_an_error_or_lost_as_was_said() {
    let plain = || {
        let memory = Memory::new();
        memory.put("hot", SealedMemory::of_bytes(&[0]).expect("memory"));
        memory
    };
    let older = || {
        let memory = Memory::new();
        memory.put_value("hot", &OldHot(7)).expect("memory");
        memory
    };
    let unreadable = |arrived: &str| CarryError::Unreadable {
        set: "hot".into(),
        arrived: arrived.into(),
        reads: "test.hot version 2".into(),
    };
    let why = match damaged().value::<Hot>("hot", &Reads::new()) {
        Err(crate::Error::Carry(CarryError::Damaged { why, .. })) => why,
        other => panic!("{other:?}"),
    };
    let is_damaged = CarryError::Damaged { set: "memory".into(), item: "hot".into(), why };
    let cases: [(&dyn Fn() -> Memory, _); 3] = [
        (&damaged, is_damaged),
        (&plain, unreadable("plain bytes version 0")),
        (&older, unreadable("test.hot version 1")),
    ];
    for (memory, expected) in cases {
        let strict = memory();
        let error = strict.value::<Hot>("hot", &Reads::new()).expect_err("it is not read");
        let words = expected.to_string();
        assert_eq!(format!("{error:?}"), format!("{:?}", crate::Error::from(expected)));
        assert_eq!(strict.keys(), ["hot"]);

        let lossy = memory().may_be_lost();
        assert_eq!(lossy.value::<Hot>("hot", &Reads::new()).expect("it is lost"), None);
        assert_eq!(lossy.keys(), [""; 0]);
        assert_eq!(lossy.fate(), CarryFate::Dropped { why: words });
    }
}

#[test]
fn each_piece_is_sent_once_in_each_swap_and_none_before_the_seal() {
    let memory = Memory::new();
    for key in ["b", "a", "c"] {
        memory.put(key, SealedMemory::of_bytes(key.as_bytes()).expect("memory"));
    }
    let swap = |max: usize| {
        let mut sent = Vec::new();
        memory.collect(None);
        assert!(!memory.send_next(false, &mut |_, _, _| panic!("too early")).expect("nothing"));
        while sent.len() < max
            && memory
                .send_next(true, &mut |format, items, descriptors| {
                    assert_eq!((format, items.len(), descriptors.len()), (None, 1, 1));
                    assert_eq!(items[0].state, WireState::Memory { length: 1 });
                    sent.extend(items.into_iter().map(|item| item.name));
                    Ok(())
                })
                .expect("it is sent")
        {}
        memory.take_back(true);
        sent
    };
    assert_eq!(swap(2), ["a", "b"]);
    assert_eq!(swap(9), ["a", "b", "c"]);
    memory.put("a", SealedMemory::of_bytes(b"d").expect("memory"));
    assert_eq!(swap(9), ["a", "b", "c"]);
    assert_eq!(memory.get("a").as_deref(), Some(&b"d"[..]));
}

#[test]
fn a_process_that_is_replaced_gives_its_memory_back() {
    let memory = Memory::new();
    let sealed = SealedMemory::of_bytes(&[1; 5000]).expect("memory");
    let inode = inode(sealed.as_sealed());
    memory.put("key", sealed);
    memory.part();
    assert_eq!(memory.keys(), [""; 0]);
    assert_closed(&[inode]);
}

#[test]
fn a_writer_seals_what_was_written_whatever_its_length() {
    for length in [0, 1, 4096, BUFFER - 1, BUFFER, 2 * BUFFER + 3] {
        let mut writer = MemoryWriter::new().expect("memory");
        let bytes: Vec<u8> = (0..length).map(|at| (at % 255) as u8).collect();
        bytes.chunks(777).for_each(|chunk| writer.write_all(chunk).expect("it is written"));
        let sealed = writer.seal().expect("it is sealed");
        assert!(*sealed == bytes, "{length} bytes");
        assert!(*sealed.clone() == bytes);
    }
}
