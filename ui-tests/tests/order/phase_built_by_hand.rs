use handoff::supervisor::Ready;

fn main() {
    let _ = Ready(());
}
