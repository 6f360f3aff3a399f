use handoff::successor::{Greeted, Successor};

fn open(successor: Successor<Greeted>) {
    println!("{}", successor.lock().generation());
}

fn main() {}
