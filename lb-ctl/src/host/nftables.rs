//! The chains of nftables, those that the iptables command of today makes among them.

use super::netlink::{Connection, Refused, Request, attributes, text};

/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_NEWCHAIN`, `NFT_MSG_GETCHAIN`
const SUBSYSTEM: u16 = 10 << 8;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
/// `NFTA_CHAIN_TABLE`, `NFTA_CHAIN_NAME`
const TABLE: u16 = 1;
const NAME: u16 = 3;
/// `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;

/// Family, table and name of each chain in the calling thread's network namespace.
pub(crate) fn chains() -> Result<Vec<(&'static str, String, String)>, Refused> {
    let mut connection = Connection::netfilter()?;
    let answers = connection.dump(|| Request::new(GET_CHAIN, &[0; HEADER]))?;
    let of_chains = answers.iter().filter(|answer| answer.kind == NEW_CHAIN);
    let chain = |payload: &[u8]| {
        // NFPROTO_*
        let family = match *payload.first()? {
            1 => "inet",
            2 => "ip",
            5 => "netdev",
            10 => "ip6",
            _ => "other",
        };
        let value = |wanted| {
            let found = attributes(payload.get(HEADER..)?).find(|(kind, _)| *kind == wanted);
            found.map(|(_, value)| text(value))
        };
        Some((family, value(TABLE)?, value(NAME)?))
    };
    Ok(of_chains.filter_map(|answer| chain(&answer.payload)).collect())
}
