extern crate handoff as renamed_handoff;

mod facade {
    pub mod deep {
        pub use renamed_handoff::*;
    }
}

#[derive(renamed_handoff::Drainable)]
#[handoff(crate = "renamed_handoff")]
struct Word {
    #[handoff(gate)]
    gate: renamed_handoff::Gate,
}

#[derive(renamed_handoff::Drainable)]
#[handoff(crate = "crate::facade::deep")]
struct Path {
    #[handoff(gate)]
    gate: facade::deep::Gate,
}

#[derive(renamed_handoff::Drainable)]
#[handoff(crate = "::renamed_handoff")]
struct Absolute;

fn drainable(_: &dyn renamed_handoff::Drainable) {}

fn main() {
    drainable(&Word { gate: renamed_handoff::Gate::new() });
    drainable(&Path { gate: facade::deep::Gate::new() });
    drainable(&Absolute);
}
