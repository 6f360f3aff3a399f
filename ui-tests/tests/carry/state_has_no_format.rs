use std::sync::Arc;

use handoff::Drainable;
use handoff::carry::Connections;

#[derive(serde::Serialize, serde::Deserialize)]
struct Client {
    unparsed: Vec<u8>,
}

#[derive(Drainable)]
struct Kv {
    #[handoff(carry)]
    clients: Arc<Connections<Client>>,
}

fn main() {}
