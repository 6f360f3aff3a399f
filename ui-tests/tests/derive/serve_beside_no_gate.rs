//! A service has a gate.

use std::sync::Arc;

use handoff::carry::{Carry, Memory};
use handoff::drainable::Serve;
use handoff::{Drainable, Gate};

struct Chat(Arc<Gate>, Memory);

impl Serve for Chat {
    fn gate(&self) -> &Gate {
        &self.0
    }

    fn connections(&self) -> &dyn Carry {
        &self.1
    }
}

#[derive(Drainable)]
#[handoff(no_gate)]
struct App {
    #[handoff(serve, gate)]
    chat: Chat,
}

fn main() {}
