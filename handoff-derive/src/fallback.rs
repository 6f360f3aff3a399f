//! The expansion of a struct with errors: the errors, and an implementation of `Drainable`, so
//! that no further error about a missing one follows.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::DeriveInput;

use crate::attr::Container;
use crate::expand::crate_path;

pub(crate) fn expand(
    input: &DeriveInput,
    container: &Container,
    error: Option<syn::Error>,
) -> TokenStream {
    let krate = crate_path(container);
    let errors = error.map(|error| error.to_compile_error());
    let ident = &input.ident;
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();
    let predicates = where_clause.map(|clause| clause.predicates.to_token_stream());
    let predicates = predicates.filter(|predicates| !predicates.is_empty());
    let predicates = predicates.iter();
    // A false bound that mentions no lifetime is itself an error; `for<'__never>` avoids that.
    quote! {
        #errors
        const _: () = {
            #[automatically_derived]
            impl #impl_generics #krate::__private::Drainable for #ident #ty_generics
            where
                #(#predicates,)*
                for<'__never> Self: ::core::marker::Send + ::core::marker::Sync,
            {
                fn drain(
                    &self,
                    _: #krate::__private::Instant,
                ) -> #krate::__private::Result<#krate::__private::DrainReport> {
                    ::core::unreachable!()
                }
                fn seal(&self) -> #krate::__private::Result<#krate::__private::SealReport> {
                    ::core::unreachable!()
                }
                fn resume_after_abort(&self) -> #krate::__private::Result<()> {
                    ::core::unreachable!()
                }
                fn snapshot_state(&self) -> #krate::__private::StateSnapshot {
                    ::core::unreachable!()
                }
            }
        };
    }
}
