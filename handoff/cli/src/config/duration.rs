//! Durations as people write them: "30s", "1m 30s", "250ms".

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// A duration, and the offset of its value in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DurationAt {
    pub(crate) duration: Duration,
    pub(crate) at: usize,
}

/// For `deserialize_with`.
pub(super) fn human<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Human)
}

/// For `deserialize_with`, of a duration that is checked together with another setting.
pub(super) fn human_at<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DurationAt>, D::Error> {
    #[derive(Deserialize)]
    struct Value(#[serde(deserialize_with = "human")] Duration);

    let value = Spanned::<Value>::deserialize(deserializer)?;
    Ok(Some(DurationAt { at: value.span().start, duration: value.into_inner().0 }))
}

struct Human;

impl Visitor<'_> for Human {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, in quotes: \"250ms\", \"30s\", \"1m 30s\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        match humantime::parse_duration(text) {
            Ok(duration) if duration > MAX_DURATION => {
                Err(E::custom(format!("{text:?} is longer than 100 years")))
            }
            Ok(duration) => Ok(duration),
            Err(error) => Err(E::custom(format!("{text:?} is no duration: {error}"))),
        }
    }
}

/// A longer timeout is a slip, and no clock could be set to it.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
