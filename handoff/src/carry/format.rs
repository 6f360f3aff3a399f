//! The format of a carried state, and the older formats that a build reads.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::CarryError;
use crate::frame::read_value;

/// A state that goes from one build to the next. It says its name and version, so that a build
/// that cannot read it knows so before it tries.
///
/// ```
/// use handoff::carry::Carried;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Client {
///     unparsed: Vec<u8>, // what was read of the next request
///     user: Option<String>,
/// }
///
/// impl Carried for Client {
///     const NAME: &'static str = "notes.client"; // of the format, not of the Rust type
///     const VERSION: u32 = 1; // grows with every change of a field
/// }
/// ```
///
/// The bytes are bincode's, which names no fields: a state whose fields have changed in any way
/// is another version. See [`Reads::from`] for how a newer build reads it. For the same reason
/// serde's `skip_serializing_if`, `flatten` and `untagged` write bytes that cannot be read again.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be carried",
    note = "derive serde's `Serialize` and `Deserialize` for it, and implement \
            `handoff::carry::Carried`, which gives its format a name and a version"
)]
pub trait Carried: Serialize + DeserializeOwned + Send + 'static {
    /// The name of the format: the same in all builds, even if the type is renamed.
    const NAME: &'static str;

    /// The version of the format.
    const VERSION: u32;
}

/// For a connection that needs no state.
impl Carried for () {
    const NAME: &'static str = "nothing";
    const VERSION: u32 = 1;
}

/// For a connection that needs no more than a place: the last change that its client has seen, say.
impl Carried for u64 {
    const NAME: &'static str = "u64";
    const VERSION: u32 = 1;
}

/// A format's name and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    pub(crate) name: String,
    pub(crate) version: u32,
}

impl Format {
    pub(crate) fn of<T: Carried>() -> Self {
        Self { name: T::NAME.to_owned(), version: T::VERSION }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.name, self.version)
    }
}

/// The formats that a build reads as a `T`: its own, and those of other builds, which are converted.
///
/// ```
/// # use handoff::carry::{Carried, Reads};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize)]
/// struct ClientV1 { unparsed: Vec<u8> }
/// # impl Carried for ClientV1 { const NAME: &'static str = "notes.client"; const VERSION: u32 = 1; }
///
/// #[derive(Serialize, Deserialize)]
/// struct Client { unparsed: Vec<u8>, user: Option<String> }
/// # impl Carried for Client { const NAME: &'static str = "notes.client"; const VERSION: u32 = 2; }
///
/// impl From<ClientV1> for Client {
///     fn from(old: ClientV1) -> Self {
///         Self { unparsed: old.unparsed, user: None }
///     }
/// }
///
/// let reads = Reads::<Client>::new().from::<ClientV1>();
/// ```
pub struct Reads<T> {
    formats: Vec<(Format, Decode<T>)>,
}

type Decode<T> = fn(&[u8]) -> Result<T, String>;

impl<T: Carried> Reads<T> {
    /// Its own format alone.
    #[must_use]
    pub fn new() -> Self {
        Self { formats: vec![(Format::of::<T>(), read_value::<T>)] }
    }

    /// And that of another build: of an older one, or of the next one, for the swap back from it.
    #[must_use]
    pub fn from<Older: Carried>(mut self) -> Self
    where
        T: From<Older>,
    {
        const {
            assert!(
                Older::VERSION != T::VERSION || !same(Older::NAME, T::NAME),
                "a state that reads an older one needs a version of its own"
            );
        }
        self.formats.push((Format::of::<Older>(), |bytes| read_value(bytes).map(Older::into)));
        self
    }

    /// How to read a format.
    pub(crate) fn decoder(&self, set: &str, format: &Format) -> Result<Decoder<T>, CarryError> {
        let mut known = self.formats.iter().enumerate();
        match known.find(|(_, (known, _))| known == format) {
            Some((place, (_, decode))) => {
                Ok(Decoder { decode: *decode, older: (place > 0).then(|| format.to_string()) })
            }
            None => Err(CarryError::Unreadable {
                set: set.to_owned(),
                arrived: format.to_string(),
                reads: self.to_string(),
            }),
        }
    }
}

const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

pub(crate) struct Decoder<T> {
    decode: Decode<T>,
    /// The older format that it converts from, if any.
    pub(crate) older: Option<String>,
}

impl<T> Decoder<T> {
    pub(crate) fn read(&self, set: &str, item: &str, bytes: &[u8]) -> Result<T, CarryError> {
        let damaged = |why| CarryError::Damaged { set: set.to_owned(), item: item.to_owned(), why };
        (self.decode)(bytes).map_err(damaged)
    }
}

impl<T: Carried> Default for Reads<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Display for Reads<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let formats: Vec<_> = self.formats.iter().map(|(format, _)| format.to_string()).collect();
        f.write_str(&formats.join(", "))
    }
}

impl<T> fmt::Debug for Reads<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.formats.iter().map(|(format, _)| format)).finish()
    }
}

#[cfg(test)]
mod tests;
