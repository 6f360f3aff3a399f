use std::net::TcpStream;

use handoff::carry::{Carried, Ticket};

fn serve<S: Carried>(ticket: Ticket<S>, stream: TcpStream, state: S) {
    ticket.park(stream, state);
    if ticket.is_told_to_close() {}
}

fn main() {}
