use handoff::Incumbent;

struct State;

fn serve(incumbent: Incumbent) -> handoff::Result<()> {
    incumbent.serve(State)
}

fn main() {}
