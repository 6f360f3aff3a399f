use handoff::supervisor::Ready;

fn main() {
    let _ = Ready { drain: Default::default(), report: Default::default(), ready: Default::default() };
}
