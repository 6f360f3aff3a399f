use handoff::carry::{Carried, Connections};

#[derive(serde::Serialize, serde::Deserialize)]
struct OldClient;

impl Carried for OldClient {
    const NAME: &'static str = "client";
    const VERSION: u32 = 1;
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Client;

impl Carried for Client {
    const NAME: &'static str = "client";
    const VERSION: u32 = 2;
}

fn main() {
    let _ = Connections::<Client>::new().from::<OldClient>();
}
