//! Logging to standard error, as text or as JSON lines.

use super::options::{LogFormat, LogLevel};
use crate::datapath::PacketLog;
use std::io::IsTerminal as _;
use std::time::Duration;

/// How often the programs' messages are looked for.
const GLANCE: Duration = Duration::from_millis(100);

/// Installs the subscriber and, with it, the bridge from the `log` crate by which the datapath's own messages come.
/// A second call changes nothing.
pub fn init(level: LogLevel, format: LogFormat) {
    // What other crates have to say at debug is about themselves.
    let filter = tracing_subscriber::EnvFilter::new(format!(
        "{},aya=info,aya_obj=info,notify=warn,hyper_util=warn",
        level.filter()
    ));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => {
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(level >= LogLevel::Debug).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = installed {
        tracing::debug!("logging was set up before: {error}");
    }
}

/// Passes on what the datapath's programs say, for as long as the daemon runs.
pub(super) async fn follow(mut log: PacketLog) {
    let mut interval = tokio::time::interval(GLANCE);
    loop {
        interval.tick().await;
        log.flush();
    }
}
