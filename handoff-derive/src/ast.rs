//! The struct as its author wrote it.

use syn::{Data, DeriveInput, Member, Type};

use crate::attr;
use crate::errors::Errors;

/// The fields of the struct, in declared order.
pub(crate) struct Fields<'a>(pub(crate) Vec<Field<'a>>);

pub(crate) struct Field<'a> {
    pub(crate) source: &'a syn::Field,
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
    pub(crate) attrs: attr::Field,
}

impl<'a> Fields<'a> {
    /// `None`, and an error, for an enum or a union.
    pub(crate) fn parse(input: &'a DeriveInput, errors: &mut Errors) -> Option<Self> {
        let fields = match &input.data {
            Data::Struct(data) => &data.fields,
            Data::Enum(data) => {
                errors.at(
                    data.enum_token,
                    "Drainable cannot be derived for an enum: its shards would change with its \
                     variant. Put the enum in a field of a struct, and implement `handoff::Shard` \
                     for it",
                );
                return None;
            }
            Data::Union(data) => {
                errors.at(
                    data.union_token,
                    "Drainable cannot be derived for a union: which field holds a shard cannot be \
                     known. Use a struct",
                );
                return None;
            }
        };
        let fields = fields.iter().zip(fields.members()).map(|(source, member)| Field {
            source,
            member,
            ty: &source.ty,
            attrs: attr::Field::parse(&source.attrs, errors),
        });
        Some(Self(fields.collect()))
    }
}
