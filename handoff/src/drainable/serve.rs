//! A part of a daemon that serves connections: a gate and carried connections in one field.

use std::sync::Arc;

use crate::carry::Carry;
use crate::drainable::Gate;

/// The type of a field with `#[handoff(serve)]`: a service with a gate of its own, whose connections
/// are carried. [`Http`](crate::http::Http) is one; a daemon with a protocol of its own implements it
/// for a type of its own.
///
/// ```
/// # use std::sync::Arc;
/// # use handoff::{Gate, carry::{Carried, Carry, Connections}, drainable::Serve};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Default, Serialize, Deserialize)] struct Client;
/// # impl Carried for Client { const NAME: &'static str = "c"; const VERSION: u32 = 1; }
/// #[derive(Clone, Default)]
/// struct Chat {
///     gate: Arc<Gate>,
///     clients: Arc<Connections<Client>>,
/// }
///
/// impl Serve for Chat {
///     fn gate(&self) -> &Gate {
///         &self.gate
///     }
///
///     fn connections(&self) -> &dyn Carry {
///         &self.clients
///     }
/// }
///
/// #[derive(handoff::Drainable)]
/// struct Daemon {
///     #[handoff(serve)]
///     chat: Chat,
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not serve connections",
    label = "`#[handoff(serve)]` is for a gate and carried connections in one field",
    note = "such a field is a `handoff::http::Http`, or a type of yours that implements \
            `handoff::drainable::Serve`"
)]
pub trait Serve: Send + Sync {
    /// The gate that each request passes.
    fn gate(&self) -> &Gate;

    /// The connections. The next build finds them by the name of the field.
    fn connections(&self) -> &dyn Carry;
}

macro_rules! deref_serve {
    ($($pointer:ty),*) => {$(
        impl<T: Serve + ?Sized> Serve for $pointer {
            fn gate(&self) -> &Gate {
                (**self).gate()
            }

            fn connections(&self) -> &dyn Carry {
                (**self).connections()
            }
        }
    )*};
}

deref_serve!(&T, Box<T>, Arc<T>);
