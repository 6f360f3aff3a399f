use handoff::successor::{Successor, Warmed};

fn serve(mut successor: Successor<Warmed>) {
    let _listener = successor.listeners().take_tcp("resp");
}

fn main() {}
