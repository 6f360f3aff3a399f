use handoff::Drainable;
use std::net::TcpStream;

#[derive(Drainable)]
struct Kv {
    #[handoff(carry)]
    clients: Vec<TcpStream>,
}

fn main() {}
