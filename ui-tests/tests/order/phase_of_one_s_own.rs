use handoff::Session;
use handoff::supervisor::Phase;

struct Mine;

impl Phase for Mine {}

fn swap(_: Session<u8>) {}

fn main() {}
