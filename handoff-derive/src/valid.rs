//! The struct as it can be expanded: the role of each field, and its name.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{Expr, Ident, Lit, LitStr, Member, Type};

use crate::ast::{Field, Fields};
use crate::attr;
use crate::errors::Errors;

/// The fields that the hooks work on, in declared order.
#[derive(Default)]
pub(crate) struct Members<'a> {
    pub(crate) shards: Vec<Shards<'a>>,
    pub(crate) gates: Vec<Gates<'a>>,
    pub(crate) carried: Vec<Carried<'a>>,
    pub(crate) formats: Option<Formats>,
    pub(crate) lineage: Lineage,
}

/// The format that is written, and those that are read.
pub(crate) struct Formats {
    pub(crate) written: u32,
    pub(crate) reads: RangeInclusive<u32>,
}

/// The differences from older builds, by the attributes; names as in the data format.
#[derive(Default)]
pub(crate) struct Lineage {
    pub(crate) added: Vec<String>,
    pub(crate) retired: Vec<LitStr>,
    /// The earlier name, and the present one.
    pub(crate) renamed: Vec<(LitStr, String)>,
    pub(crate) resizable: Vec<String>,
}

pub(crate) struct Shards<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
    pub(crate) name: String,
    /// Its own, in place of the struct's.
    pub(crate) formats: Option<Formats>,
}

pub(crate) struct Carried<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
    pub(crate) name: String,
    /// It has a gate too.
    pub(crate) is_served: bool,
}

pub(crate) struct Gates<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
}

impl<'a> Members<'a> {
    pub(crate) fn check(
        fields: Fields<'a>,
        container: &attr::Container,
        errors: &mut Errors,
    ) -> Self {
        let mut members = Self::default();
        let (mut names, mut carried) = (Names::new("shard"), Names::new("set"));
        for field in fields.0 {
            one_role(&field.attrs, errors);
            let Field { source, member, ty, attrs } = field;
            if let Some(role) = attrs.gate.as_ref().or(attrs.skip.as_ref()) {
                no_name(&attrs, role, errors);
            }
            let is_carried = attrs.carry.is_some() || attrs.serve.is_some();
            let is_shard = attrs.gate.is_none() && attrs.skip.is_none() && !is_carried;
            if !is_shard {
                no_lineage(&attrs, errors);
            }
            if let (Some(gate), true) =
                (attrs.gate.as_ref().or(attrs.serve.as_ref()), container.no_gate.is_some())
            {
                let has = if attrs.gate.is_some() { "is" } else { "has" };
                errors.at(gate, format!("the struct says `no_gate`, and this field {has} a gate"));
            }
            if attrs.gate.is_some() {
                members.gates.push(Gates { member, ty });
                continue;
            }
            if attrs.skip.is_some() {
                continue;
            }
            let name = match &attrs.name {
                Some((_, name)) => name.value(),
                None => name_of(&member),
            };
            let at: &dyn ToTokens = match &attrs.name {
                Some((_, name)) => name,
                None => source.ident.as_ref().map_or(ty as &dyn ToTokens, |ident| ident),
            };
            if is_carried {
                carried.add(&name, ty, at, errors);
                let is_served = attrs.serve.is_some();
                members.carried.push(Carried { member, ty, name, is_served });
            } else {
                names.add(&name, ty, at, errors);
                members.lineage.add(&name, &attrs);
                let formats = Formats::check(&attrs.formats, errors);
                members.shards.push(Shards { member, ty, name, formats });
            }
        }
        members.formats = Formats::check(&container.formats, errors);
        members.lineage.retired.clone_from(&container.retired);
        members.lineage.check(&names.taken, errors);
        names.check_elements(errors);
        carried.check_elements(errors);
        members
    }
}

fn one_role(attrs: &attr::Field, errors: &mut Errors) {
    let roles: Vec<&Ident> = [&attrs.shards, &attrs.gate, &attrs.carry, &attrs.serve, &attrs.skip]
        .into_iter()
        .flatten()
        .collect();
    if let [one, another, ..] = roles[..] {
        errors.at(another, format!("a field is one thing: `{one}` or `{another}`"));
    }
}

fn no_name(attrs: &attr::Field, role: &Ident, errors: &mut Errors) {
    if let Some((key, _)) = &attrs.name {
        errors.at(
            key,
            format!("`name` is for what is sealed or carried, and this field says `{role}`"),
        );
    }
}

fn no_lineage(attrs: &attr::Field, errors: &mut Errors) {
    let was = attrs.was.as_ref().map(|(key, _)| key);
    let format = attrs.formats.format.as_ref().map(|(key, _)| key);
    let reads = attrs.formats.reads.as_ref().map(|(key, _)| key);
    let keys = [attrs.added.as_ref(), attrs.resizable.as_ref(), was, format, reads];
    for key in keys.into_iter().flatten() {
        errors.at(key, format!("`{key}` is for shards, and this field is none"));
    }
}

impl Formats {
    fn check(attrs: &attr::Formats, errors: &mut Errors) -> Option<Self> {
        let attr::Formats { format, reads } = attrs;
        let Some((_, written)) = format else {
            if let Some((key, reads)) = reads {
                let last = reads.end();
                errors.at(
                    key,
                    format!("`reads` stands beside the format that is written: `format = {last}`"),
                );
            }
            return None;
        };
        let written = *written;
        let Some((key, reads)) = reads else {
            return Some(Self { written, reads: written..=written });
        };
        let (first, last) = (*reads.start(), *reads.end());
        if reads.is_empty() {
            errors.at(
                key,
                format!("no format lies in `{first}..={last}`: write `reads = {last}..={first}`"),
            );
        } else if !reads.contains(&written) {
            let (first, last) = (first.min(written), last.max(written));
            errors.at(
                key,
                format!(
                    "this build writes format {written} and would not read it: write \
                     `reads = {first}..={last}`, or give the format that it writes as `format`"
                ),
            );
        }
        Some(Self { written, reads: reads.clone() })
    }
}

impl Lineage {
    fn add(&mut self, name: &str, attrs: &attr::Field) {
        if attrs.added.is_some() {
            self.added.push(name.to_owned());
        }
        if attrs.resizable.is_some() {
            self.resizable.push(name.to_owned());
        }
        if let Some((_, was)) = &attrs.was {
            self.renamed.push((was.clone(), name.to_owned()));
        }
    }

    /// An earlier name belongs to one shard, which has no field of that name any more.
    fn check(&self, present: &HashSet<String>, errors: &mut Errors) {
        let mut earlier = HashSet::new();
        let renamed = self.renamed.iter().map(|(was, _)| ("was", was));
        for (key, at) in renamed.chain(self.retired.iter().map(|name| ("retired", name))) {
            let name = at.value();
            if name.is_empty() {
                errors.at(at, "a shard's name cannot be empty");
            } else if present.contains(&name) {
                let is_added = key == "retired" && self.added.contains(&name);
                let remedy = match key {
                    _ if is_added => "it is `added` or `retired`, not both",
                    "was" => "leave out `was`, or give that shard another `name`",
                    _ => "leave it out here, or give that shard another `name`",
                };
                errors.at(at, format!("this struct has a shard `{name}`: {remedy}"));
            } else if !earlier.insert(name.clone()) {
                errors.at(
                    at,
                    format!("`{name}` is declared twice: one shard had that name, and one thing became of it"),
                );
            }
        }
    }
}

/// The names of the shards, or of the sets.
struct Names<'a> {
    what: &'static str,
    fields: Vec<Named<'a>>,
    taken: HashSet<String>,
}

struct Named<'a> {
    name: String,
    ty: &'a Type,
    at: TokenStream,
}

impl<'a> Names<'a> {
    fn new(what: &'static str) -> Self {
        Self { what, fields: Vec::new(), taken: HashSet::new() }
    }

    fn add(&mut self, name: &str, ty: &'a Type, at: &dyn ToTokens, errors: &mut Errors) {
        let what = self.what;
        if name.is_empty() {
            errors.at(at, format!("a {what}'s name cannot be empty"));
        } else if !self.taken.insert(name.to_owned()) {
            errors.at(
                at,
                format!(
                    "another {what} is named `{name}`; names are part of the data format, so give \
                     each {what} its own"
                ),
            );
        }
        self.fields.push(Named { name: name.to_owned(), ty, at: at.to_token_stream() });
    }

    /// The elements of an array `log` are named `log.0`, `log.1`: no other field may have such a
    /// name. The library finds those of the other collections when the daemon starts.
    fn check_elements(&self, errors: &mut Errors) {
        let what = self.what;
        for Named { name: of, ty, .. } in &self.fields {
            let lengths = lengths(ty);
            for Named { name, at, .. } in
                self.fields.iter().filter(|other| !is_collection(other.ty))
            {
                if is_element(name, of, &lengths) {
                    errors.at(
                        at,
                        format!(
                            "another {what} is named `{name}`: an element of `{of}`; names are part \
                             of the data format, so give each {what} its own"
                        ),
                    );
                }
            }
        }
    }
}

/// The lengths of an array, and of the arrays in it, as far as they are literals.
fn lengths(ty: &Type) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut ty = ty;
    loop {
        ty = match ty {
            Type::Paren(paren) => &paren.elem,
            Type::Group(group) => &group.elem,
            Type::Array(array) => {
                let Expr::Lit(length) = &array.len else { return lengths };
                let Lit::Int(length) = &length.lit else { return lengths };
                let Ok(length) = length.base10_parse() else { return lengths };
                lengths.push(length);
                &array.elem
            }
            _ => return lengths,
        };
    }
}

/// Whether the elements of that type have names that are longer than its own.
fn is_collection(ty: &Type) -> bool {
    match ty {
        Type::Array(_) | Type::Tuple(_) => true,
        Type::Path(path) => path.path.segments.last().is_some_and(|last| {
            ["Vec", "BTreeMap", "HashMap"].iter().any(|collection| last.ident == collection)
        }),
        _ => false,
    }
}

/// Whether `name` is that of an innermost element of `of`, an array of these lengths.
fn is_element(name: &str, of: &str, lengths: &[usize]) -> bool {
    let Some(places) = name.strip_prefix(of).and_then(|rest| rest.strip_prefix('.')) else {
        return false;
    };
    let places: Vec<&str> = places.split('.').collect();
    let is_place = |(place, length): (&&str, &usize)| {
        place.parse().is_ok_and(|index: usize| index < *length && index.to_string() == **place)
    };
    places.len() == lengths.len() && places.iter().zip(lengths).all(is_place)
}

fn name_of(member: &Member) -> String {
    match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}
