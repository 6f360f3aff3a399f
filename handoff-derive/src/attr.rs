//! The contents of `#[handoff(...)]`.

use std::ops::RangeInclusive;

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, ExprPath, Ident, Lit, LitStr, Path, Token, parenthesized, token};

use crate::errors::Errors;

/// The attributes of the struct.
#[derive(Default)]
pub(crate) struct Container {
    /// Where the crate is, if not at `::handoff`.
    pub(crate) krate: Option<Path>,
    pub(crate) hooks: Vec<Hook>,
    /// The daemon has no gate on purpose.
    pub(crate) no_gate: Option<Ident>,
    /// Names of shards that older builds had.
    pub(crate) retired: Vec<LitStr>,
    pub(crate) formats: Formats,
}

/// The format that a build writes, and the first and the last one that it reads.
#[derive(Default)]
pub(crate) struct Formats {
    pub(crate) format: Option<(Ident, u32)>,
    pub(crate) reads: Option<(Ident, RangeInclusive<u32>)>,
}

impl Formats {
    /// Takes the item if it is one of the two.
    fn take(&mut self, item: &Item, errors: &mut Errors) -> bool {
        if item.key == "format" {
            self.format = item.number(errors).map(|format| (item.key.clone(), format));
        } else if item.key == "reads" {
            self.reads = item.range(errors).map(|reads| (item.key.clone(), reads));
        } else {
            return false;
        }
        true
    }
}

/// A function of the daemon, and the moment at which it is called.
pub(crate) struct Hook {
    /// One of [`HOOKS`].
    pub(crate) key: Ident,
    pub(crate) function: ExprPath,
}

impl Container {
    pub(crate) fn parse(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut container = Self::default();
        for item in items(attrs, errors) {
            let key = item.key.to_string();
            if container.formats.take(&item, errors) {
                continue;
            }
            if key == "crate" {
                container.krate = item.parsed(errors);
            } else if key == "no_gate" {
                container.no_gate = item.bare(errors);
            } else if key == "retired" {
                container.retired = item.names(errors);
            } else if HOOKS.contains(&&*key) {
                if let Some(function) = item.parsed(errors) {
                    container.hooks.push(Hook { key: item.key, function });
                }
            } else if FIELD.contains(&&*key) {
                errors.at(&item.key, format!("`{key}` belongs on a field, not on the struct"));
            } else {
                let known = [&HOOKS[..], &STRUCT].concat();
                errors.at(&item.key, unknown(&key, "a struct", &known));
            }
        }
        container
    }
}

/// The attributes of a field. Each is kept with its key, for errors.
#[derive(Default)]
pub(crate) struct Field {
    pub(crate) gate: Option<Ident>,
    pub(crate) carry: Option<Ident>,
    pub(crate) serve: Option<Ident>,
    pub(crate) shards: Option<Ident>,
    pub(crate) skip: Option<Ident>,
    pub(crate) name: Option<(Ident, LitStr)>,
    pub(crate) added: Option<Ident>,
    pub(crate) resizable: Option<Ident>,
    pub(crate) was: Option<(Ident, LitStr)>,
    pub(crate) formats: Formats,
}

impl Field {
    pub(crate) fn parse(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut field = Self::default();
        for item in items(attrs, errors) {
            if field.formats.take(&item, errors) {
                continue;
            }
            match &*item.key.to_string() {
                "gate" => field.gate = item.bare(errors),
                "carry" => field.carry = item.bare(errors),
                "serve" => field.serve = item.bare(errors),
                "shards" => field.shards = item.bare(errors),
                "skip" => field.skip = item.bare(errors),
                "added" => field.added = item.bare(errors),
                "resizable" => field.resizable = item.bare(errors),
                "name" => field.name = item.text(errors).map(|name| (item.key, name)),
                "was" => field.was = item.text(errors).map(|name| (item.key, name)),
                key if STRUCT.contains(&key) || HOOKS.contains(&key) => {
                    errors.at(&item.key, format!("`{key}` belongs on the struct, not on a field"));
                }
                key => errors.at(&item.key, unknown(key, "a field", &FIELD)),
            }
        }
        field
    }
}

/// `key`, `key = "value"`, `key = 3`, `key = 1..=3` or `retired("one", "another")`.
struct Item {
    key: Ident,
    value: Option<Lit>,
    /// The end of a range that begins with the value.
    last: Option<Lit>,
    names: Option<Punctuated<Lit, Token![,]>>,
}

impl Item {
    fn bare(&self, errors: &mut Errors) -> Option<Ident> {
        if let Some(value) = &self.value {
            errors.at(value, format!("`{0}` takes no value: write `#[handoff({0})]`", self.key));
        }
        Some(self.key.clone())
    }

    /// The names in the parentheses.
    fn names(&self, errors: &mut Errors) -> Vec<LitStr> {
        let key = &self.key;
        let names = self.names.iter().flatten();
        let names: Vec<LitStr> = names
            .filter_map(|name| match name {
                Lit::Str(name) => Some(name.clone()),
                other => {
                    errors.at(other, format!("`{key}` takes names in quotes"));
                    None
                }
            })
            .collect();
        if self.names.as_ref().is_none_or(Punctuated::is_empty) {
            errors.at(key, format!("`{key}` takes names: `{key}(\"audit\", \"journal\")`"));
        }
        names
    }

    /// A format.
    fn number(&self, errors: &mut Errors) -> Option<u32> {
        let key = &self.key;
        if let (Some(value), None) = (&self.value, &self.last) {
            return number_of(value, errors);
        }
        errors.at(key, format!("`{key}` takes a number: `{key} = 3`"));
        None
    }

    /// The formats from one to another.
    fn range(&self, errors: &mut Errors) -> Option<RangeInclusive<u32>> {
        let key = &self.key;
        let (Some(first), Some(last)) = (&self.value, &self.last) else {
            errors
                .at(key, format!("`{key}` takes the formats from one to another: `{key} = 1..=3`"));
            return None;
        };
        Some(number_of(first, errors)?..=number_of(last, errors)?)
    }

    fn text(&self, errors: &mut Errors) -> Option<LitStr> {
        match &self.value {
            Some(Lit::Str(text)) => return Some(text.clone()),
            Some(other) => errors.at(other, format!("`{}` takes a string", self.key)),
            None => {
                errors.at(&self.key, format!("`{0}` takes a string: `{0} = \"...\"`", self.key));
            }
        }
        None
    }

    fn parsed<T: Parse>(&self, errors: &mut Errors) -> Option<T> {
        let text = self.text(errors)?;
        let parsed = text.parse();
        if parsed.is_err() {
            let example = if self.key == "crate" { "::handoff" } else { "self::flush" };
            errors.at(&text, format!("`{}` takes a path, such as \"{example}\"", self.key));
        }
        parsed.ok()
    }
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let key = Ident::parse_any(input)?;
        if input.peek(token::Paren) {
            if key != "retired" {
                return Err(input.error(format!("`{key}` takes no parentheses")));
            }
            let inside;
            parenthesized!(inside in input);
            let names = Punctuated::parse_terminated(&inside).map_err(|error| {
                syn::Error::new(error.span(), format!("`{key}` takes names in quotes"))
            })?;
            return Ok(Self { key, value: None, last: None, names: Some(names) });
        }
        let literal = || {
            input.parse().map_err(|error| {
                let takes = match &*key.to_string() {
                    "format" => "a number: `format = 3`",
                    "reads" => "the formats from one to another: `reads = 1..=3`",
                    _ => "a string in quotes",
                };
                syn::Error::new(error.span(), format!("`{key}` takes {takes}"))
            })
        };
        let (mut value, mut last) = (None, None);
        if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            value = Some(literal()?);
            if key == "reads" && input.peek(Token![..=]) {
                input.parse::<Token![..=]>()?;
                last = Some(literal()?);
            } else if input.peek(Token![..]) {
                return Err(input.error("`reads` takes both ends: `reads = 1..=3`"));
            }
        }
        Ok(Self { key, value, last, names: None })
    }
}

/// The items of all our attributes; a second one of a key is an error.
fn items(attrs: &[Attribute], errors: &mut Errors) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("handoff")) {
        let parsed = attr.parse_args_with(Punctuated::<Item, Token![,]>::parse_terminated);
        for item in errors.take(parsed).into_iter().flatten() {
            if items.iter().any(|earlier| earlier.key == item.key) {
                errors.at(&item.key, format!("`{}` is given twice", item.key));
            } else {
                items.push(item);
            }
        }
    }
    items
}

fn number_of(literal: &Lit, errors: &mut Errors) -> Option<u32> {
    let number = match literal {
        Lit::Int(number) => number.base10_parse().ok().filter(|number| *number > 0),
        _ => None,
    };
    if number.is_none() {
        errors.at(literal, "a format is a number from 1 to 4294967295");
    }
    number
}

fn unknown(key: &str, place: &str, known: &[&str]) -> String {
    let known: Vec<_> = known.iter().map(|known| format!("`{known}`")).collect();
    format!("unknown attribute `{key}`; {place} takes {}", known.join(", "))
}

/// The name of the moment in `__private::Moment`: `before_drain` is `BeforeDrain`.
pub(crate) fn moment(key: &Ident) -> Ident {
    let camel: String =
        key.to_string().split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
    Ident::new(&camel, Span::call_site())
}

const HOOKS: [&str; 8] = [
    "before_admit",
    "after_admit",
    "before_drain",
    "after_drain",
    "before_seal",
    "after_seal",
    "before_resume",
    "after_resume",
];

const STRUCT: [&str; 5] = ["format", "reads", "retired", "no_gate", "crate"];

const FIELD: [&str; 11] = [
    "shards",
    "name",
    "was",
    "added",
    "resizable",
    "format",
    "reads",
    "gate",
    "carry",
    "serve",
    "skip",
];
