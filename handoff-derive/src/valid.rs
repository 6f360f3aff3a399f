//! The struct as it can be expanded: the role of each field, and its name.

use std::collections::HashSet;

use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{Ident, Member, Type};

use crate::ast::{Field, Fields};
use crate::attr;
use crate::errors::Errors;

/// The fields that the hooks work on, in declared order.
#[derive(Default)]
pub(crate) struct Members<'a> {
    pub(crate) shards: Vec<Shards<'a>>,
    pub(crate) gates: Vec<Gates<'a>>,
    pub(crate) carried: Vec<Carried<'a>>,
}

pub(crate) struct Shards<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
    pub(crate) name: String,
}

pub(crate) struct Carried<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
    pub(crate) name: String,
}

pub(crate) struct Gates<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
}

impl<'a> Members<'a> {
    pub(crate) fn check(fields: Fields<'a>, errors: &mut Errors) -> Self {
        let mut members = Self::default();
        let (mut names, mut carried) = (HashSet::new(), HashSet::new());
        for field in fields.0 {
            one_role(&field.attrs, errors);
            let Field { source, member, ty, attrs } = field;
            if let Some(role) = attrs.gate.as_ref().or(attrs.skip.as_ref()) {
                no_name(&attrs, role, errors);
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
            if attrs.carry.is_some() {
                check_name("set", &name, at, &mut carried, errors);
                members.carried.push(Carried { member, ty, name });
            } else {
                check_name("shard", &name, at, &mut names, errors);
                members.shards.push(Shards { member, ty, name });
            }
        }
        members
    }
}

fn one_role(attrs: &attr::Field, errors: &mut Errors) {
    let roles: Vec<&Ident> =
        [&attrs.shards, &attrs.gate, &attrs.carry, &attrs.skip].into_iter().flatten().collect();
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

fn check_name(
    what: &str,
    name: &str,
    at: &dyn ToTokens,
    names: &mut HashSet<String>,
    errors: &mut Errors,
) {
    if name.is_empty() {
        errors.at(at, format!("a {what}'s name cannot be empty"));
    } else if !names.insert(name.to_owned()) {
        errors.at(
            at,
            format!(
                "another {what} is named `{name}`; names are part of the data format, so give each \
                 {what} its own"
            ),
        );
    }
}

fn name_of(member: &Member) -> String {
    match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}
