use proc_macro2::TokenTree;
use quote::quote;

use super::*;

/// Every path in these tokens that begins with `::`, up to its second segment.
fn absolute_roots(tokens: TokenStream) -> Vec<String> {
    let mut roots = Vec::new();
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (place, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            roots.extend(absolute_roots(group.stream()));
        }
        let begins = place < 1
            || !matches!(&tokens[place - 1], TokenTree::Ident(_))
                && tokens[place - 1].to_string() != ">";
        if let [TokenTree::Punct(one), TokenTree::Punct(two), TokenTree::Ident(root), ..] =
            &tokens[place..]
            && begins
            && (one.as_char(), two.as_char()) == (':', ':')
        {
            roots.push(root.to_string());
        }
    }
    roots
}

fn expanded(input: TokenStream) -> TokenStream {
    derive(&syn::parse2(input).expect("a struct"))
}

/// The messages that the compiler would show.
fn errors(input: TokenStream) -> Vec<String> {
    let file: syn::File = syn::parse2(expanded(input)).expect("items");
    let messages = file.items.iter().filter_map(|item| match item {
        syn::Item::Macro(item) => Some(item.mac.parse_body::<syn::LitStr>().expect("a message")),
        _ => None,
    });
    messages.map(|message| message.value()).collect()
}

#[test]
fn without_the_attribute_every_path_begins_at_the_crate() {
    let output = expanded(quote!(
        struct Kv<S>(#[handoff(gate)] Gate, S);
    ));
    let mut roots = absolute_roots(output);
    roots.sort();
    roots.dedup();
    assert_eq!(roots, ["core", "handoff"]);
}

#[test]
fn what_is_carried_needs_no_other_path() {
    let output = expanded(quote!(
        struct Kv<S> {
            #[handoff(carry)]
            clients: Connections<S>,
            #[handoff(carry, name = "hot")]
            cache: Memory,
        }
    ));
    let mut roots = absolute_roots(output);
    roots.sort();
    roots.dedup();
    assert_eq!(roots, ["core", "handoff"]);
}

#[test]
fn a_renamed_crate_leaves_no_path_to_its_old_name() {
    for (broken, input) in [
        (
            false,
            quote!(
                #[handoff(crate = "::other")]
                struct Kv<S>(#[handoff(gate)] Gate, S);
            ),
        ),
        (
            true,
            quote!(
                #[handoff(crate = "::other")]
                struct Kv<S>(#[handoff(door)] Gate, S);
            ),
        ),
    ] {
        assert_eq!(errors(input.clone()).is_empty(), !broken);
        let mut roots = absolute_roots(expanded(input));
        roots.sort();
        roots.dedup();
        assert_eq!(roots, ["core", "other"]);
    }
}

#[test]
fn a_sound_struct_has_no_errors() {
    assert_eq!(
        errors(quote!(
            struct Kv {
                r#type: Log,
                #[handoff(skip)]
                count: u64,
            }
        )),
        [""; 0]
    );
}

#[test]
fn a_set_and_a_shard_may_have_one_name() {
    assert_eq!(
        errors(quote!(
            struct Kv {
                log: Log,
                #[handoff(carry, name = "log")]
                cache: Memory,
            }
        )),
        [""; 0]
    );
}

#[test]
fn what_is_carried_is_no_other_thing_and_has_a_name_of_its_own() {
    let field = |attributes: TokenStream| {
        errors(quote!(
            struct Kv {
                #[handoff(#attributes)]
                clients: Clients,
            }
        ))
    };
    assert_eq!(field(quote!(carry)), [""; 0]);
    assert_eq!(field(quote!(carry, name = "others")), [""; 0]);
    for other in ["shards", "gate", "skip"] {
        let ident = proc_macro2::Ident::new(other, proc_macro2::Span::call_site());
        let (first, second) = if other == "skip" { ("carry", other) } else { (other, "carry") };
        assert_eq!(
            field(quote!(carry, #ident)),
            [format!("a field is one thing: `{first}` or `{second}`")]
        );
    }
    assert_eq!(
        field(quote!(carry = "clients")),
        ["`carry` takes no value: write `#[handoff(carry)]`"]
    );
    assert_eq!(field(quote!(carry, carry)), ["`carry` is given twice"]);
    assert_eq!(field(quote!(carry, name = "")), ["a set's name cannot be empty"]);
    let twice = errors(quote!(
        struct Kv {
            #[handoff(carry, name = "clients")]
            one: Clients,
            #[handoff(carry)]
            clients: Clients,
        }
    ));
    assert_eq!(twice.len(), 1);
    assert!(twice[0].starts_with("another set is named `clients`"), "{}", twice[0]);
    let on_the_struct = errors(quote!(
        #[handoff(carry)]
        struct Kv;
    ));
    assert_eq!(on_the_struct, ["`carry` belongs on a field, not on the struct"]);
}

/// The errors of a struct with a field of that type, named `log`, and another one of that name.
fn beside(ty: TokenStream, name: &str, other: TokenStream) -> usize {
    let told = errors(quote!(
        struct Kv {
            log: #ty,
            #[handoff(name = #name)]
            other: #other,
        }
    ));
    assert!(told.iter().all(|error| error.contains(&format!("`{name}`"))), "{told:#?}");
    told.len()
}

#[test]
fn an_element_of_an_array_has_its_name_for_itself() {
    for (ty, name, other, count) in [
        (quote!([Log; 2]), "log.1", quote!(Log), 1),
        (quote!([[Log; 2]; 3]), "log.2.1", quote!(Box<Log>), 1),
        (quote!([Log; 2]), "log.2", quote!(Log), 0),
        (quote!([Log; 2]), "log.01", quote!(Log), 0),
        (quote!([Log; 2]), "log.1.1", quote!(Log), 0),
        (quote!([Log; 2]), "log.1", quote!(Vec<Log>), 0),
        (quote!([Log; COUNT]), "log.1", quote!(Log), 0),
        (quote!(Vec<Log>), "log.1", quote!(Log), 0),
    ] {
        assert_eq!(beside(ty, name, other), count, "{name}");
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let told = errors(quote! {
        #[handoff(before_sleep = "flush", before_seal = "a b")]
        struct Kv {
            #[handoff(gate, skip)]
            gate: Gate,
            #[handoff(name = "")]
            log: Log,
            #[handoff(skip, skip, name = "metrics")]
            metrics: u64,
        }
    });
    assert_eq!(told.len(), 6, "{told:#?}");
}

#[test]
fn an_error_does_not_take_the_bounds_of_the_struct_away() {
    let output = expanded(quote! {
        struct Kv<T: Clone, const N: usize>(#[handoff(door)] T) where T: Send;
    });
    let output = output.to_string();
    assert!(output.contains("impl < T : Clone , const N : usize >"), "{output}");
    assert!(output.contains("T : Send ,"), "{output}");
}

#[test]
fn only_fields_with_a_parameter_get_bounds() {
    let bounds = |input| {
        let input: DeriveInput = syn::parse2(input).expect("a struct");
        let file: syn::File = syn::parse2(derive(&input)).expect("items");
        let syn::Item::Const(item) = &file.items[0] else { panic!("no const") };
        let syn::Expr::Block(block) = &*item.expr else { panic!("no block") };
        let syn::Stmt::Item(syn::Item::Impl(item)) = &block.block.stmts[0] else {
            panic!("no impl")
        };
        item.generics.where_clause.as_ref().map_or(0, |clause| clause.predicates.len())
    };
    assert_eq!(
        bounds(quote!(
            struct Kv(Log, Vec<Log>);
        )),
        0
    );
    assert_eq!(
        bounds(quote!(
            struct Kv<'a, const N: usize>(&'a Log, [Log; N]);
        )),
        0
    );
    // The field's bound, and that the whole may be shared.
    assert_eq!(
        bounds(quote!(
            struct Kv<S>(Vec<S>, Log);
        )),
        2
    );
    assert_eq!(
        bounds(quote!(
            struct Kv<S>(Log, #[handoff(skip)] S);
        )),
        1
    );
    assert_eq!(
        bounds(quote!(
            struct Kv<S>(#[handoff(carry)] Arc<Connections<S>>, #[handoff(carry)] Memory);
        )),
        2
    );
}
