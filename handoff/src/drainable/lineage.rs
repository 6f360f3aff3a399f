//! The differences between the shards of this build and those of the builds before it.

/// The shards in which this build differs from older ones, as its author declares them.
///
/// `#[derive(Drainable)]` writes it from the attributes `added`, `was`, `resizable` and `retired`. A
/// name stands for the shards of a whole collection too. The seal manifest has the lineage of the
/// build that sealed, so that an older build, which knows nothing of it, opens the data as well.
///
/// ```
/// use handoff::drainable::Lineage;
///
/// let lineage = Lineage::new()
///     .added("index")               // older builds have no such shard
///     .retired("audit")             // they have this one
///     .renamed("journal", "log")    // and this one under another name
///     .resizable("tables");         // and of these more, or fewer
/// # drop(lineage);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    pub(crate) added: Vec<String>,
    pub(crate) retired: Vec<String>,
    /// The earlier name, and the present one.
    pub(crate) renamed: Vec<(String, String)>,
    pub(crate) resizable: Vec<String>,
}

impl Lineage {
    /// Without a difference.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A shard that an older build does not have: this one creates it where it is not there.
    #[must_use]
    pub fn added(mut self, name: impl Into<String>) -> Self {
        self.added.push(name.into());
        self
    }

    /// A shard that an older build has, and this one does not open.
    #[must_use]
    pub fn retired(mut self, name: impl Into<String>) -> Self {
        self.retired.push(name.into());
        self
    }

    /// A shard that an older build has under the name `was`.
    #[must_use]
    pub fn renamed(mut self, was: impl Into<String>, name: impl Into<String>) -> Self {
        self.renamed.push((was.into(), name.into()));
        self
    }

    /// A collection of which an older build may have more shards, or fewer.
    #[must_use]
    pub fn resizable(mut self, name: impl Into<String>) -> Self {
        self.resizable.push(name.into());
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The differences between a build of this lineage and the data of one that sealed with
    /// `sealed`, whichever of the two is newer. A declaration of both is no difference between them.
    pub(crate) fn towards(&self, sealed: &Self) -> Self {
        let only = |one: &[String], other: &[String]| {
            one.iter().filter(|name| !other.contains(name)).cloned().collect::<Vec<_>>()
        };
        let back = sealed.renamed.iter().map(|(was, name)| (name.clone(), was.clone()));
        let renamed: Vec<_> = self.renamed.iter().cloned().chain(back).collect();
        let mut resizable = [&self.resizable[..], &sealed.resizable].concat();
        for (was, name) in &renamed {
            if resizable.contains(name) || resizable.contains(was) {
                resizable.extend([was.clone(), name.clone()]);
            }
        }
        Self {
            added: [only(&self.added, &sealed.added), only(&sealed.retired, &self.retired)]
                .concat(),
            retired: [only(&self.retired, &sealed.retired), only(&sealed.added, &self.added)]
                .concat(),
            renamed,
            resizable,
        }
    }

    /// The other names under which this build may have the shard that was sealed as `sealed`.
    pub(crate) fn names_of(&self, sealed: &str) -> impl Iterator<Item = String> {
        self.renamed.iter().filter_map(move |(was, name)| {
            element_of(sealed, was).map(|element| format!("{name}{element}"))
        })
    }

    /// Whether a build may leave a sealed shard of that name.
    pub(crate) fn may_lack(&self, name: &str) -> bool {
        is_of(name, &self.retired) || is_of(name, &self.resizable)
    }

    /// Whether a build may open a shard of that name that was not sealed.
    pub(crate) fn may_add(&self, name: &str) -> bool {
        is_of(name, &self.added) || is_of(name, &self.resizable)
    }
}

/// The rest of a shard's name behind that of its field: empty, or `.` and the element.
fn element_of<'a>(name: &'a str, field: &str) -> Option<&'a str> {
    name.strip_prefix(field).filter(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn is_of(name: &str, fields: &[String]) -> bool {
    fields.iter().any(|field| element_of(name, field).is_some())
}
