//! The notifications to the service manager. A thread of its own sends them: a manager that reads none
//! keeps no daemon from being started.

use std::sync::OnceLock;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use sd_notify::NotifyState;

/// News for the service manager.
#[derive(Debug)]
pub(crate) enum News {
    /// A daemon serves, in these words.
    Ready(String),
    /// A change, in these words.
    Status(&'static str),
    /// The supervisor stops.
    Stopping,
}

/// Tells the service manager, if there is one. News that a manager does not read are dropped.
pub(crate) fn tell(news: News) {
    static SENDER: OnceLock<Option<SyncSender<News>>> = OnceLock::new();
    let sender = SENDER.get_or_init(|| {
        std::env::var_os("NOTIFY_SOCKET")?;
        let (sender, news) = mpsc::sync_channel(MAX_NEWS);
        let tell = move || news.iter().for_each(|news| send(&news));
        thread::Builder::new().name("notify".into()).spawn(tell).ok()?;
        Some(sender)
    });
    if let Some(sender) = sender {
        let _ = sender.try_send(news);
    }
}

fn send(news: &News) {
    let sent = match news {
        News::Ready(words) => sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(words)]),
        News::Status(words) => sd_notify::notify(&[NotifyState::Status(words)]),
        News::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "this supervisor cannot tell the service manager its state");
    }
}

const MAX_NEWS: usize = 64;
