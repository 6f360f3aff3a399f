//! A picture of one swap, for a report.
//!
//! ```text
//!  the heading                     the swap, its processes, its time, its outcome and the cause
//!  the whole swap, to scale        incumbent, supervisor, successor
//!  the pause                       the same, enlarged, and the messages between them
//!  a table of the phases           also those that are too short to bear their names
//! ```

mod heading;
mod panel;
mod story;
mod table;
#[cfg(test)]
mod tests;

use handoff_svg::{Font, Svg};

use crate::record::SwapRecord;
use crate::units::column_ms;
use heading::{heading, title};
use panel::{Panel, Slots, messages};
use story::{Scene, Story};
use table::table;

/// An SVG 1.1 picture of a swap, with any outcome or still in flight.
pub(crate) fn draw(record: &SwapRecord) -> String {
    let story = Story::of(record);
    let mut svg = Svg::default();
    let below = heading(&mut svg, record);
    let below = overview(&mut svg, &story, below);
    let below = close_up(&mut svg, &story, below);
    let below = table(&mut svg, &story, record, below);
    svg.finish(&title(record), WIDTH, below + 6.0)
}

fn overview(svg: &mut Svg, story: &Story, top: f64) -> f64 {
    svg.text((MARGIN, top + 12.0), BOLD, "The whole swap, to scale");
    let total = story.until.max(1) as f64;
    let place = |us: f64| LEFT + us / total * (RIGHT - TAIL - LEFT);
    let borders = story.scenes.iter().map(|phase| place(phase.from as f64));
    let top = top + if story.pause.is_some() { 16.0 } else { 0.0 };
    let lanes = [top + 22.0, top + 40.0, top + 58.0];
    let borders = borders.chain([RIGHT]).collect();
    let panel = Panel { story, first: 0, borders, lanes, height: 15.0 };
    panel.draw(svg);
    let axis = top + 81.0;
    svg.line((LEFT, axis), (RIGHT - TAIL, axis), INK);
    let (unit, unit_us, step) = ticks(total);
    let mut taken = Slots::default();
    for tick in (0..=10).map(f64::from).map(|n| n * step).filter(|tick| *tick <= total) {
        svg.line((place(tick), axis), (place(tick), axis + 4.0), INK);
        let label = format!("{} {unit}", tick / unit_us);
        taken.label(svg, (place(tick), axis + 15.0), SMALL.centred(), &label);
    }
    zoom(svg, panel.pause(), story, axis + 20.0);
    axis + 20.0
}

/// Draws the link from the pause to scale to the enlarged pause.
fn zoom(svg: &mut Svg, pause: Option<(f64, f64)>, story: &Story, top: f64) {
    let close_up = close_up_panel(story, top);
    let (Some((left, right)), Some((wide_left, wide_right))) = (pause, close_up.pause()) else {
        return;
    };
    let bottom = close_up.lanes[0] - 5.0;
    let points = [(left, top), (right, top), (wide_right, bottom), (wide_left, bottom)];
    svg.polygon(&points, ZOOM);
}

/// Each phase is as wide as its labels, and the longer ones wider.
fn close_up_panel(story: &Story, top: f64) -> Panel<'_> {
    // The phase before the pause leads in.
    let first = story.pause.as_ref().map_or(0, |pause| pause.first.saturating_sub(1));
    let shown = &story.scenes[first..];
    let is_lead = |index: usize| story.leads_in(first + index);
    let rooms: Vec<f64> = (0..shown.len())
        .map(|index| if is_lead(index) { LEAD } else { room(shown, index) })
        .collect();
    let lengths: Vec<f64> = (0..shown.len())
        .map(|index| if is_lead(index) { None } else { story.length(first + index) })
        .map(|length| length.unwrap_or_default() as f64)
        .collect();
    let (room, length) = (rooms.iter().sum::<f64>(), lengths.iter().sum::<f64>().max(1.0));
    let (scale, spare) = ((RIGHT - LEFT).min(room) / room, (RIGHT - LEFT - room).max(0.0));
    let spare = if lengths.iter().all(|length| *length == 0.0) { 0.0 } else { spare };
    let mut borders = vec![LEFT];
    let mut x = LEFT;
    for (room, own) in rooms.iter().zip(&lengths) {
        x += room * scale + spare * own / length;
        borders.push(x);
    }
    if let Some(last) = borders.last_mut() {
        *last = RIGHT;
    }
    let top = top + if story.pause.is_some() { 16.0 } else { 0.0 };
    let lanes = [top + 24.0, top + 88.0, top + 152.0];
    Panel { story, first, borders, lanes, height: 20.0 }
}

/// The width that a column needs for its names, and for the messages at its sides.
fn room(scenes: &[Scene], index: usize) -> f64 {
    let scene = &scenes[index];
    let asked = scene.messages.iter().filter(|message| !message.is_reply);
    let next = scenes.get(index + 1).map_or(&[][..], |next| &next.messages);
    let answered = next.iter().filter(|message| message.is_reply);
    let said = asked.chain(answered).map(|message| SMALL.width(message.name) + 8.0);
    let names = [scene.of.brief(), scene.incumbent.short, scene.successor.short];
    let names = names.into_iter().filter(|_| !scene.of.is_number_enough());
    let names = names.map(|name| SMALL.width(name) + 4.0);
    let least = if index + 1 == scenes.len() { LAST } else { NUMBER };
    said.chain(names).fold(least, f64::max).min(130.0)
}

fn close_up(svg: &mut Svg, story: &Story, top: f64) -> f64 {
    let what = match story.pause {
        Some(_) => "The pause: short phases are drawn wider than they are",
        None => "The phases: short ones are drawn wider than they are",
    };
    svg.text((MARGIN, top + 14.0), BOLD, what);
    let panel = close_up_panel(story, top);
    panel.draw(svg);
    messages(svg, &panel);
    let axis = panel.lanes[2] + panel.height + 8.0;
    svg.line((LEFT, axis), (RIGHT, axis), INK);
    let zero = story.pause.as_ref().map_or(0, |pause| story.scenes[pause.first].from);
    svg.text((MARGIN, axis + 15.0), SMALL, "ms");
    let mut ticks: Vec<_> = panel.columns().filter(|tick| !story.leads_in(tick.0)).collect();
    let over = story.pause.as_ref().and_then(|pause| pause.over);
    ticks.sort_by_key(|column| Some(column.0) != over);
    let mut taken = Slots::default();
    for (_, phase, x, _) in ticks {
        svg.line((x, axis), (x, axis + 4.0), INK);
        let label = column_ms(phase.from.saturating_sub(zero));
        taken.label(svg, (x, axis + 15.0), SMALL.centred(), &label);
    }
    axis + 24.0
}

/// The unit of an axis, its microseconds, and how many of these lie between two ticks.
fn ticks(total: f64) -> (&'static str, f64, f64) {
    let units = [("d", 8.64e10), ("h", 3.6e9), ("min", 6e7), ("s", 1e6), ("ms", 1e3), ("µs", 1.0)];
    let fits = units.into_iter().find(|(_, us)| total >= 2.0 * us);
    let (unit, us) = fits.unwrap_or(("µs", 1.0));
    let rough = total / us / 6.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
    (unit, us, (step * us).max(1.0))
}

const WIDTH: f64 = 724.0;
const MARGIN: f64 = 10.0;
/// The left and right ends of the lanes.
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - MARGIN;
/// The widths of the last column of the overview, and of the first and last of the close-up.
const TAIL: f64 = 78.0;
const LEAD: f64 = 52.0;
const LAST: f64 = 72.0;
/// The width of a column that bears the number of its phase.
const NUMBER: f64 = 18.0;
const PLAIN: Font = Font::sized(12.0);
const BOLD: Font = PLAIN.bold();
const SMALL: Font = Font::sized(11.0);
const INK: &str = r##"stroke="#000000" stroke-width="1""##;
const OUTLINE: &str = r##"stroke="#444444" stroke-width="0.7""##;
const PAUSE: &str = r##"fill="#f0e442" fill-opacity="0.45""##;
const ZOOM: &str = r##"fill="#f0e442" fill-opacity="0.15""##;
