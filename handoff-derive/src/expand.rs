//! The implementation that the derive writes for a valid struct.

use std::collections::HashSet;
use std::iter;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, ExprPath, Generics, Ident, Type, parse_quote};

use crate::attr::{Container, Hook, moment};
use crate::valid::{Carried, Formats, Gates, Lineage, Members, Shards};

pub(crate) fn expand(
    input: &DeriveInput,
    container: &Container,
    members: &Members<'_>,
) -> TokenStream {
    let krate = crate_path(container);
    let ident = &input.ident;
    let generics = bounded(&input.generics, &krate, members);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let parts = parts(&krate, container, members);
    let no_gate = container.no_gate.is_some();
    let hooks = hooks(&krate);
    let schema = schema(&krate, members);
    quote! {
        const _: () = {
            #[automatically_derived]
            impl #impl_generics #krate::__private::Parts for #ident #ty_generics #where_clause {
                const NO_GATE: bool = #no_gate;

                #parts
            }

            #[automatically_derived]
            impl #impl_generics #krate::__private::Drainable for #ident #ty_generics #where_clause {
                #hooks

                #schema
            }
        };
    }
}

/// The function that tells the schema.
fn schema(krate: &TokenStream, members: &Members<'_>) -> TokenStream {
    let Lineage { added, retired, renamed, resizable } = &members.lineage;
    let whole = members.formats.iter().map(|Formats { written, reads }| {
        let (first, last) = (reads.start(), reads.end());
        quote!(.format(#written, #first..=#last))
    });
    let fields = members.shards.iter().flat_map(|Shards { ty, name, formats, .. }| {
        let own = formats.iter().map(move |Formats { written, reads }| {
            let (first, last) = (reads.start(), reads.end());
            quote!(.field_format(#name, #written, #first..=#last))
        });
        let extent = quote!(#krate::__private::FieldOf::<#ty>::LOOK.extent());
        iter::once(quote!(.field_of(#name, #extent))).chain(own)
    });
    let lineage = (added.iter().map(|name| quote!(.added(#name))))
        .chain(retired.iter().map(|name| quote!(.retired(#name))))
        .chain(renamed.iter().map(|(was, name)| quote!(.renamed(#was, #name))))
        .chain(resizable.iter().map(|name| quote!(.resizable(#name))));
    quote! {
        fn schema() -> #krate::__private::Schema {
            #[allow(unused_imports)]
            use #krate::__private::AnyExtent as _;

            #krate::__private::Schema::new() #(#whole)* #(#fields)* #(#lineage)*
        }
    }
}

pub(crate) fn crate_path(container: &Container) -> TokenStream {
    match &container.krate {
        Some(path) => path.to_token_stream(),
        None => quote!(::handoff),
    }
}

/// The body of the implementation of `Parts`: shards, gates, carried sets and hooks.
fn parts(krate: &TokenStream, container: &Container, members: &Members<'_>) -> TokenStream {
    let shards = members.shards.iter().map(|Shards { member, ty, name, .. }| {
        quote! {
            let __shards = #krate::__private::ShardList::with::<#ty>(__shards, #name, &self.#member);
        }
    });
    let gates = members.gates.iter().map(|Gates { member, ty }| {
        quote! {
            <#ty as #krate::__private::Gates>::gather(&self.#member, &mut __gates);
        }
    });
    let of_served = members.carried.iter().filter(|carried| carried.is_served);
    let of_served = of_served.map(|Carried { member, ty, .. }| {
        quote! {
            __gates.push(<#ty as #krate::__private::Serve>::gate(&self.#member));
        }
    });
    let carried = members.carried.iter().map(|Carried { member, ty, name, is_served }| {
        let set = match is_served {
            true => quote!(<#ty as #krate::__private::Serve>::connections(&self.#member)),
            false => quote!(&self.#member),
        };
        let of = if *is_served { quote!(dyn #krate::__private::Carry) } else { quote!(#ty) };
        quote! {
            let __carriage = #krate::__private::Carriage::with::<#of>(__carriage, #name, #set);
        }
    });
    let hooks = container.hooks.iter().map(|Hook { key, function }| {
        let moment = moment(key);
        let function = method(function);
        let span = within(function.span());
        let outcome = Ident::new("__outcome", span);
        let call = quote_spanned!(span=> #function(self));
        quote! {
            #krate::__private::Moment::#moment => {
                let #outcome = #call;
                #krate::__private::HookOutcome::into_result(#outcome)
            }
        }
    });
    quote! {
        fn shard_list(&self) -> #krate::__private::ShardList<'_> {
            let __shards = #krate::__private::ShardList::new();
            #(#shards)*
            __shards
        }

        fn gates(&self) -> #krate::__private::Vec<&#krate::__private::Gate> {
            #[allow(unused_mut)]
            let mut __gates = #krate::__private::Vec::new();
            #(#gates)*
            #(#of_served)*
            __gates
        }

        fn carriage(&self) -> #krate::__private::Carriage<'_> {
            let __carriage = #krate::__private::Carriage::new();
            #(#carried)*
            __carriage
        }

        #[allow(unreachable_patterns)]
        fn hook(&self, __moment: #krate::__private::Moment) -> #krate::__private::Result<()> {
            match __moment {
                #(#hooks)*
                _ => #krate::__private::Result::Ok(()),
            }
        }
    }
}

/// The hooks of `Drainable`. Each calls its namesake in `__private` or, for `carriage`, in `Parts`.
fn hooks(krate: &TokenStream) -> TokenStream {
    let p = quote!(#krate::__private);
    quote! {
        fn settle(&self) -> #p::Result<()> {
            #p::settle(self)
        }

        fn drain(&self, __deadline: #p::Instant) -> #p::Result<#p::DrainReport> {
            #p::drain(self, __deadline)
        }

        fn seal(&self) -> #p::Result<#p::SealReport> {
            #p::seal(self)
        }

        fn resume_after_abort(&self) -> #p::Result<()> {
            #p::resume_after_abort(self)
        }

        fn snapshot_state(&self) -> #p::StateSnapshot {
            #p::snapshot_state(self)
        }

        fn admit(&self) -> #p::Result<()> {
            #p::admit(self)
        }

        fn interrupt(&self) {
            #p::interrupt(self)
        }

        fn seal_shards(&self, __progress: &#p::Progress<'_>) -> #p::Result<#p::SealedState> {
            #p::seal_shards(self, __progress)
        }

        fn carriage(&self) -> #p::Carriage<'_> {
            #p::Parts::carriage(self)
        }

        fn check(&self) -> #p::Result<()> {
            #p::check(self)
        }

        fn gating(&self) -> #p::Gating {
            #p::gating(self)
        }

        fn opened_shards(&self) -> #p::Result<#p::Vec<#p::SealedShard>> {
            #p::opened_shards(self)
        }
    }
}

/// The function to call: a single word names a method of the struct.
fn method(function: &ExprPath) -> ExprPath {
    match function.path.get_ident() {
        Some(ident) => {
            let this = Ident::new("Self", within(ident.span()));
            parse_quote!(#this::#ident)
        }
        None => function.clone(),
    }
}

/// The struct's own bounds, and those of the fields with a type parameter in their type.
fn bounded(generics: &Generics, krate: &TokenStream, members: &Members<'_>) -> Generics {
    let params: HashSet<String> =
        generics.type_params().map(|param| param.ident.to_string()).collect();
    if params.is_empty() {
        return generics.clone();
    }
    let mut bounded = generics.clone();
    let clause = bounded.make_where_clause();
    for ty in members.shards.iter().map(|shards| shards.ty).filter(|ty| mentions(ty, &params)) {
        clause.predicates.push(parse_quote!(#ty: #krate::__private::Shards));
    }
    for ty in members.gates.iter().map(|gates| gates.ty).filter(|ty| mentions(ty, &params)) {
        clause.predicates.push(parse_quote!(#ty: #krate::__private::Gates));
    }
    for Carried { ty, is_served, .. } in &members.carried {
        let role = if *is_served { quote!(Serve) } else { quote!(Carry) };
        if mentions(ty, &params) {
            clause.predicates.push(parse_quote!(#ty: #krate::__private::#role));
        }
    }
    clause.predicates.push(parse_quote!(Self: ::core::marker::Send + ::core::marker::Sync));
    bounded
}

fn mentions(ty: &Type, params: &HashSet<String>) -> bool {
    fn any(tokens: TokenStream, params: &HashSet<String>) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(ident) => params.contains(&ident.to_string()),
            TokenTree::Group(group) => any(group.stream(), params),
            TokenTree::Punct(_) | TokenTree::Literal(_) => false,
        })
    }
    any(ty.to_token_stream(), params)
}

/// The place at which the compiler reports errors; lints still see that a macro wrote the code.
fn within(span: Span) -> Span {
    Span::call_site().located_at(span)
}
