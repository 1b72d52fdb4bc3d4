//! The columns of the table, for the screen and for plain text: what is wide enough for a terminal has more of them.

use super::rates::Row;
use super::spark::{count, number, sparkline};
use super::state::Tab;

/// From this width on there are more columns.
pub(super) const WIDE: u16 = 110;

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Takes the room that others leave.
    Name,
    Pod,
    Endpoints,
    Connections,
    Total,
    Packets,
    PacketsIn,
    PacketsOut,
    Bytes,
    BytesIn,
    BytesOut,
    Trend,
}

/// The columns for a terminal of this width.
pub(super) fn columns(tab: Tab, width: u16) -> Vec<Column> {
    use Column::{
        Bytes, BytesIn, BytesOut, Connections, Endpoints, Name, Packets, PacketsIn, PacketsOut, Pod, Total, Trend,
    };
    match (tab, width >= WIDE) {
        (Tab::Services, false) => vec![Name, Endpoints, Connections, Packets, Bytes, Trend],
        (Tab::Backends, false) => vec![Name, Pod, Connections, Packets, Bytes, Trend],
        (Tab::Services, true) => {
            vec![Name, Endpoints, Connections, Total, PacketsIn, PacketsOut, BytesIn, BytesOut, Trend]
        }
        (Tab::Backends, true) => vec![Name, Pod, Connections, Total, PacketsIn, PacketsOut, BytesIn, BytesOut, Trend],
    }
}

impl Column {
    /// Its header.
    pub(super) const fn title(self, tab: Tab) -> &'static str {
        match (self, tab) {
            (Column::Name, Tab::Services) => "SERVICE",
            (Column::Name, Tab::Backends) => "BACKEND",
            (Column::Pod, _) => "POD",
            (Column::Endpoints, _) => "ENDP",
            (Column::Connections, _) => "CONN/S",
            (Column::Total, _) => "CONN",
            (Column::Packets, _) => "PKT/S",
            (Column::PacketsIn, _) => "PKT/S IN",
            (Column::PacketsOut, _) => "PKT/S OUT",
            (Column::Bytes, _) => "B/S",
            (Column::BytesIn, _) => "B/S IN",
            (Column::BytesOut, _) => "B/S OUT",
            (Column::Trend, _) => "TREND",
        }
    }

    /// How wide it is; `None`: as wide as there is room.
    pub(super) const fn width(self, is_wide: bool) -> Option<u16> {
        match self {
            Column::Name => None,
            Column::Pod => Some(if is_wide { 32 } else { 22 }),
            Column::Endpoints => Some(7),
            Column::Trend => Some(if is_wide { 24 } else { 12 }),
            Column::Connections | Column::Packets | Column::Bytes => Some(7),
            _ => Some(9),
        }
    }

    /// Whether numbers stand in it.
    pub(super) const fn is_number(self) -> bool {
        !matches!(self, Column::Name | Column::Pod | Column::Trend)
    }

    /// What stands in it.
    pub(super) fn cell(self, row: &Row, width: usize) -> String {
        let rate = &row.rate;
        match self {
            Column::Name => row.name.clone(),
            Column::Pod => if row.pod.is_empty() { "-" } else { &row.pod }.to_owned(),
            Column::Endpoints => match row.endpoints {
                (used, all) if used == all => used.to_string(),
                (used, all) => format!("{used}/{all}"),
            },
            Column::Connections => number(rate.connections),
            Column::Total => count(row.total),
            Column::Packets => number(rate.packets.iter().sum()),
            Column::PacketsIn => number(rate.packets[0]),
            Column::PacketsOut => number(rate.packets[1]),
            Column::Bytes => number(rate.bytes.iter().sum()),
            Column::BytesIn => number(rate.bytes[0]),
            Column::BytesOut => number(rate.bytes[1]),
            Column::Trend => sparkline(&row.trend, width),
        }
    }
}
