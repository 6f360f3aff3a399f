//! A layer of tower for services that a daemon serves by itself.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use hyper::Response;
use tower_layer::Layer;
use tower_service::Service;

use crate::drainable::{Gate, OwnedPass};

/// Lets each request pass the gate, and holds the pass until the body of its reply has ended or is
/// dropped: for a daemon with an accept loop of its own. A drain waits for them, as long as they take. A
/// request that finds the gate closed waits until it is open.
///
/// Not inside [`serve`](super::serve), whose handlers have a pass already: one that waited for a second
/// one would keep a drain waiting for the first.
///
/// ```
/// # use std::sync::Arc;
/// use handoff::{Gate, http::GateLayer};
/// use tower_layer::Layer;
///
/// let gate = Arc::new(Gate::new());
/// # let service = ();
/// let service = GateLayer::new(&gate).layer(service); // with axum: `router.layer(..)`
/// # drop(service);
/// ```
#[derive(Debug, Clone)]
pub struct GateLayer(Arc<Gate>);

impl GateLayer {
    /// A layer before that gate.
    #[must_use]
    pub fn new(gate: &Arc<Gate>) -> Self {
        Self(Arc::clone(gate))
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, service: S) -> Gated<S> {
        Gated { service, gate: Arc::clone(&self.0) }
    }
}

/// A service behind a gate: [`GateLayer`].
#[derive(Clone)]
pub struct Gated<S> {
    service: S,
    gate: Arc<Gate>,
}

impl<S, R, B> Service<R> for Gated<S>
where
    S: Service<R, Response = Response<B>> + Clone,
{
    type Response = Response<GatedBody<B>>;
    type Error = S::Error;
    type Future = GatedReply<S, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: R) -> GatedReply<S, R> {
        // A service that is ready and not called has no pass: a drain would wait for it.
        match self.gate.enter_owned() {
            Ok(pass) => {
                let future = Some(self.service.call(request));
                GatedReply { future, waiting: None, pass: Some(pass) }
            }
            Err(_) => {
                let copy = self.service.clone();
                // The one that is ready is called, once the gate is open.
                let service = std::mem::replace(&mut self.service, copy);
                let opens = Box::pin(self.gate.entered_owned());
                let waiting = Some(Waiting { opens, service, request });
                GatedReply { future: None, waiting, pass: None }
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Gated<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gated").field("service", &self.service).finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// The reply of a service behind a gate.
    pub struct GatedReply<S: Service<R>, R> {
        #[pin]
        future: Option<S::Future>,
        waiting: Option<Waiting<S, R>>,
        pass: Option<OwnedPass>,
    }
}

/// A request before a closed gate.
struct Waiting<S, R> {
    opens: Pin<Box<dyn Future<Output = OwnedPass> + Send>>,
    service: S,
    request: R,
}

impl<S, R, B> Future for GatedReply<S, R>
where
    S: Service<R, Response = Response<B>>,
{
    type Output = Result<Response<GatedBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(waiting) = this.waiting {
            *this.pass = Some(ready!(waiting.opens.as_mut().poll(context)));
        }
        if let Some(Waiting { mut service, request, .. }) = this.waiting.take() {
            this.future.set(Some(service.call(request)));
        }
        let Some(future) = this.future.as_pin_mut() else { return Poll::Pending };
        let reply = ready!(future.poll(context))?;
        let pass = this.pass.take();
        Poll::Ready(Ok(reply.map(|body| GatedBody { body, pass })))
    }
}

impl<S: Service<R>, R> fmt::Debug for GatedReply<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatedReply").field("pass", &self.pass).finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// A body that holds a pass of a gate until it ends.
    #[derive(Debug)]
    pub struct GatedBody<B> {
        #[pin]
        body: B,
        pass: Option<OwnedPass>,
    }
}

impl<B: Body> Body for GatedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let polled = this.body.poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            *this.pass = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::task::Waker;

    use super::*;

    /// Answers with a body of so many frames.
    #[derive(Clone)]
    struct Frames(u32);

    impl Service<()> for Frames {
        type Response = Response<Self>;
        type Error = Infallible;
        type Future = Ready<Result<Response<Self>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            ready(Ok(Response::new(self.clone())))
        }
    }

    impl Body for Frames {
        type Data = bytes::Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<bytes::Bytes>, Infallible>>> {
            let left = self.0.checked_sub(1);
            self.0 = left.unwrap_or(0);
            Poll::Ready(left.map(|_| Ok(Frame::data(bytes::Bytes::new()))))
        }
    }

    #[test]
    fn a_request_is_inside_until_its_reply_has_ended() {
        let gate = Arc::new(Gate::new());
        let mut context = Context::from_waker(Waker::noop());
        let mut service = GateLayer::new(&gate).layer(Frames(1));
        assert!(Service::poll_ready(&mut service, &mut context).is_ready());
        let mut early = Box::pin(service.call(()));
        assert!(early.as_mut().poll(&mut context).is_pending(), "the gate is closed");
        gate.open();
        assert_eq!(gate.inside(), 0);
        let late = Box::pin(service.call(()));
        assert_eq!(gate.inside(), 1);
        for (mut reply, inside) in [(early, 2), (late, 1)] {
            let Poll::Ready(Ok(reply)) = reply.as_mut().poll(&mut context) else {
                panic!("no reply")
            };
            let mut body = Box::pin(reply.into_body());
            for expected in [inside, inside - 1] {
                assert!(body.as_mut().poll_frame(&mut context).is_ready());
                assert_eq!(gate.inside(), expected);
            }
        }
        // One that is dropped in the midst is over as well.
        drop(service.call(()));
        assert_eq!(gate.inside(), 0);
    }
}
