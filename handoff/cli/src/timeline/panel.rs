//! Three lanes for incumbent, supervisor and successor, and the messages between them.

use handoff_svg::{Font, Svg};

use crate::timeline::story::{Activity, Message, Mood, Peer, Scene, Story};
use crate::timeline::{INK, LEFT, MARGIN, OUTLINE, PAUSE, RIGHT, SMALL, WIDTH};
use crate::units::brief;

/// Three lanes, a part of the story in them, and where its phases lie.
pub(super) struct Panel<'a> {
    pub(super) story: &'a Story,
    /// The phase in the first column.
    pub(super) first: usize,
    /// The left border of each column, and the right one of the last.
    pub(super) borders: Vec<f64>,
    /// The upper edges of the lanes: incumbent, supervisor, successor.
    pub(super) lanes: [f64; 3],
    pub(super) height: f64,
}

impl Panel<'_> {
    pub(super) fn columns(&self) -> impl Iterator<Item = (usize, &Scene, f64, f64)> {
        let phases = self.story.scenes.iter().enumerate().skip(self.first);
        let borders = self.borders.windows(2);
        phases.zip(borders).map(|((index, phase), border)| (index, phase, border[0], border[1]))
    }

    fn border(&self, phase: usize) -> f64 {
        let column = phase.saturating_sub(self.first);
        self.borders.get(column).copied().unwrap_or(RIGHT)
    }

    /// From where to where the clients wait.
    pub(super) fn pause(&self) -> Option<(f64, f64)> {
        let pause = self.story.pause.as_ref()?;
        let (left, right) = (self.border(pause.first), self.border(pause.first + 1));
        let from = left + pause.into * (right - left);
        Some((from, pause.over.map_or(RIGHT, |over| self.border(over)).max(from + 2.0)))
    }

    pub(super) fn draw(&self, svg: &mut Svg) {
        self.draw_pause(svg);
        let names = ["incumbent", "supervisor", "successor"];
        for (name, top) in names.into_iter().zip(self.lanes) {
            svg.text((MARGIN, top + self.height / 2.0 + 4.0), SMALL.bold(), name);
        }
        self.draw_peer(svg, self.lanes[0], "incumbent", |phase| phase.incumbent);
        self.draw_peer(svg, self.lanes[2], "successor", |phase| phase.successor);
        for (index, phase, left, right) in self.columns() {
            let paint = if phase.is_cut { Mood::Unknown.paint() } else { PHASE };
            let labels = [phase.of.name(), phase.of.brief(), &(index + 1).to_string()];
            let tooltip =
                format!("supervisor: {}, {}", phase.of.name(), self.span(index, index + 1));
            self.bar(svg, self.lanes[1], (left, right), paint, &labels, &tooltip);
        }
    }

    fn draw_pause(&self, svg: &mut Svg) {
        let (Some((left, right)), Some(pause)) = (self.pause(), &self.story.pause) else { return };
        let (top, bottom) = (self.lanes[0] - 5.0, self.lanes[2] + self.height + 5.0);
        svg.rect((left, top), (right - left, bottom - top), PAUSE);
        let font = SMALL.bold().centred();
        let half = font.width(&pause.label) / 2.0;
        let middle = f64::midpoint(left, right).clamp(LEFT + half, RIGHT - half);
        svg.text((middle, top - 4.0), font, &pause.label);
    }

    /// The states of a process, one bar for as long as the state stays the same.
    fn draw_peer(&self, svg: &mut Svg, top: f64, who: &str, state: impl Fn(&Scene) -> Activity) {
        let columns: Vec<_> = self.columns().collect();
        for run in
            columns.chunk_by(|(_, a, ..), (_, b, ..)| state(a) == state(b) && a.is_cut == b.is_cut)
        {
            let [(first, phase, left, _), ..] = run else { continue };
            let (last, right) = run.last().map_or((*first, *left), |run| (run.0, run.3));
            let state = state(phase);
            let mood = if phase.is_cut { Mood::Unknown } else { state.mood };
            let tooltip = format!("{who}: {}, {}", state.label, self.span(*first, last + 1));
            let labels = [state.label, state.short];
            self.bar(svg, top, (*left, right), mood.paint(), &labels, &tooltip);
        }
    }

    /// A bar with the first of the labels that fits.
    fn bar(
        &self,
        svg: &mut Svg,
        top: f64,
        (left, right): (f64, f64),
        paint: &str,
        labels: &[&str],
        tooltip: &str,
    ) {
        let width = right - left;
        let outline = if width < 3.0 { "" } else { OUTLINE };
        svg.tooltip(tooltip, |svg| {
            let size = (width.max(0.8), self.height);
            svg.rect((left, top), size, &format!("{paint} {outline}"));
            if let Some(label) = labels.iter().find(|label| SMALL.width(label) + 3.0 <= width) {
                let middle = (f64::midpoint(left, right), top + self.height / 2.0 + 4.0);
                svg.text(middle, SMALL.centred(), label);
            }
        });
    }

    fn span(&self, first: usize, next: usize) -> String {
        let from = self.story.scenes.get(first).map_or(0, |phase| phase.from);
        match self.story.scenes.get(next) {
            Some(next) => format!("from {} to {}", brief(from), brief(next.from)),
            None => format!("from {}", brief(from)),
        }
    }
}

pub(super) fn messages(svg: &mut Svg, panel: &Panel<'_>) {
    let columns: Vec<_> = panel.columns().collect();
    for peer in [Peer::Incumbent, Peer::Successor] {
        let (upper, lower) = match peer {
            Peer::Incumbent => (panel.lanes[0] + panel.height, panel.lanes[1]),
            Peer::Successor => (panel.lanes[1] + panel.height, panel.lanes[2]),
        };
        let here = |message: &&Message| message.peer == peer;
        let arrows: Vec<_> = columns
            .iter()
            .filter(|(index, ..)| !panel.story.leads_in(*index))
            .flat_map(|(_, phase, x, _)| phase.messages.iter().filter(here).map(|m| (*x, m)))
            .collect();
        let arrows_at = Slots(arrows.iter().map(|(x, _)| (x - 1.0, x + 1.0)).collect());
        let mut rows = [arrows_at.clone(), arrows_at];
        for (x, message) in arrows {
            let is_down = message.is_reply == (peer == Peer::Incumbent);
            arrow(svg, x, if is_down { (upper, lower) } else { (lower, upper) });
            let row = usize::from(message.is_reply);
            let y = upper + 17.0 + 17.0 * row as f64;
            let (left, right) = ((x - 4.0, SMALL.ending()), (x + 4.0, SMALL));
            let places = if message.is_reply { [left, right] } else { [right, left] };
            let _ = places
                .into_iter()
                .any(|(x, font)| rows[row].label(svg, (x, y), font, message.name));
        }
    }
}

fn arrow(svg: &mut Svg, x: f64, (from, to): (f64, f64)) {
    let back = if to > from { -7.0 } else { 7.0 };
    svg.line((x, from), (x, to + back), INK);
    svg.polygon(&[(x, to), (x - 3.0, to + back), (x + 3.0, to + back)], r##"fill="#000000""##);
}

/// The taken parts of a line.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots(Vec<(f64, f64)>);

impl Slots {
    /// Writes a label, unless it would touch another or leave the picture.
    pub(super) fn label(
        &mut self,
        svg: &mut Svg,
        (x, y): (f64, f64),
        font: Font,
        label: &str,
    ) -> bool {
        let (from, to) = font.extent(x, label);
        let is_free = self.0.iter().all(|taken| to + 2.0 < taken.0 || taken.1 + 2.0 < from);
        let is_drawn = is_free && from >= MARGIN && to <= WIDTH - MARGIN;
        if is_drawn {
            self.0.push((from, to));
            svg.text((x, y), font, label);
        }
        is_drawn
    }
}

impl Mood {
    pub(super) const fn paint(self) -> &'static str {
        match self {
            Self::Serves => r##"fill="#5aa5dc""##,
            Self::Works => r##"fill="#f5c45e""##,
            Self::Waits => r##"fill="#ebebeb""##,
            Self::Gone => r##"fill="#ffffff""##,
            Self::Unknown => r##"fill="#ffffff" stroke-dasharray="3 2""##,
        }
    }
}

const PHASE: &str = r##"fill="#f7f7f7""##;
