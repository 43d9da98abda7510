//! The `#[handler]` attribute of the `wambda` crate. Use it from there.

use proc_macro::TokenStream;
use quote::quote;
use syn::spanned::Spanned;
use syn::{ItemFn, ReturnType, parse_macro_input};

/// Makes a function the handler of an event function.
///
/// The function takes an event (any `serde::Deserialize`) and a `wambda::Context`, and returns a
/// `Result` of any `serde::Serialize` and a `wambda::Error`.
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    let problem = problem(&function);
    if !arguments.is_empty() {
        let error = syn::Error::new(function.sig.span(), "#[wambda::handler] takes no arguments");
        return error.to_compile_error().into();
    }
    if let Some(error) = problem {
        return error.to_compile_error().into();
    }
    let name = &function.sig.ident;
    quote! {
        #function

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Function;

            impl ::wambda::__private::bindings::Guest for Function {
                fn handle(
                    event: ::std::vec::Vec<u8>,
                    context: ::wambda::__private::bindings::Context,
                ) -> ::std::result::Result<
                    ::std::vec::Vec<u8>,
                    ::wambda::__private::bindings::FunctionError,
                > {
                    ::wambda::__private::handle(&event, context.into(), #name)
                        .map_err(::std::convert::Into::into)
                }
            }

            ::wambda::__private::bindings::export!(Function);
        };
    }
    .into()
}

fn problem(function: &ItemFn) -> Option<syn::Error> {
    let signature = &function.sig;
    if let Some(asynchronous) = &signature.asyncness {
        let message = "a wambda handler is not async: it has an instance of its own to block";
        return Some(syn::Error::new(asynchronous.span(), message));
    }
    if signature.inputs.len() != 2 {
        let message = "a wambda handler takes two parameters: an event and a wambda::Context";
        return Some(syn::Error::new(signature.inputs.span(), message));
    }
    if matches!(signature.output, ReturnType::Default) {
        let message = "a wambda handler returns Result<_, wambda::Error>";
        return Some(syn::Error::new(signature.span(), message));
    }
    None
}
