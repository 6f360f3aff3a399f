//! Connections that a service has besides those of HTTP, which they began as.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::http::Extensions;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::carry::AnySet;
use crate::drainable::Gate;

/// They are not served yet.
pub(super) trait Plan: fmt::Debug + Send + Sync {
    /// Begins to take up those that arrive.
    fn begin(
        self: Box<Self>,
        gate: &Arc<Gate>,
        leave_grace: Duration,
        permits: &Arc<Semaphore>,
        runtime: &Handle,
    ) -> Arc<dyn Sockets>;

    /// The type of their state.
    #[cfg(feature = "ws")]
    fn state(&self) -> std::any::TypeId;

    /// Of their set.
    #[cfg(feature = "ws")]
    fn name(&self) -> &'static str;
}

/// They are served.
pub(super) trait Sockets: fmt::Debug + Send + Sync {
    /// A request may become one of them.
    fn offer(self: Arc<Self>, extensions: &mut Extensions);

    /// How many there are.
    fn live(&self) -> usize;

    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>));
}
