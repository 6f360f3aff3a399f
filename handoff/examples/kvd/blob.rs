//! Writes bytes as serde's bytes: in one piece. Serde takes a plain vector for a list of numbers,
//! one by one, and a swap would wait for it. For fields with `#[serde(with = "crate::blob")]`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(
    bytes: &impl AsRef<[u8]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes.as_ref())
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: From<Vec<u8>>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Owned<T>(PhantomData<T>);
    impl<T: From<Vec<u8>>> Visitor<'_> for Owned<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<T, E> {
            Ok(bytes.into())
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
            Ok(bytes.to_vec().into())
        }
    }
    deserializer.deserialize_byte_buf(Owned(PhantomData))
}
