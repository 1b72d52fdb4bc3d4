//! The capture of mixed traffic that tests/fixtures/record.py made.

/// A captured frame.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Its bytes, Ethernet header first.
    pub frame: Vec<u8>,
    /// Linux made it, and it came by a link; if not, it was written by hand.
    pub is_kernels: bool,
}

/// All frames, in order.
pub fn mixed() -> Vec<Captured> {
    // A pcap file of the recorder's byte order: 24 bytes, then for each frame its time (8), length, original length.
    let mut rest = &include_bytes!("../fixtures/mixed.pcap")[24..];
    let mut frames = Vec::new();
    while let Some((header, following)) = rest.split_at_checked(16) {
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (frame, following) = following.split_at(word(8) as usize);
        frames.push(Captured { frame: frame.to_vec(), is_kernels: word(0) == 0 });
        rest = following;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_oracle::packet::{Packet, Unread};

    #[test]
    fn the_oracle_finds_the_kernels_packets_right() {
        let (mut whole, mut fragments) = (0, 0);
        for captured in mixed().iter().filter(|captured| captured.is_kernels) {
            match Packet::read(&captured.frame) {
                Ok(packet) => {
                    assert!(packet.is_right(), "{:02x?}", captured.frame);
                    *(if packet.fragment.is_some() { &mut fragments } else { &mut whole }) += 1;
                    if lb_oracle::icmp::is_error(&packet) {
                        let quoted = lb_oracle::icmp::quoted(&packet).expect("a quoted packet");
                        assert_eq!(quoted.destination, packet.source, "about what was sent to the speaker");
                        assert!(quoted.is_right(), "quoted whole");
                    }
                }
                Err(unread) => assert_eq!(unread, Unread::NotIp, "{:02x?}", captured.frame),
            }
        }
        assert!(whole > 40 && fragments > 5, "{whole} whole packets, {fragments} fragments");
    }

    #[test]
    fn the_oracle_accepts_the_kernels_answers() {
        let frames = mixed();
        let kernels: Vec<_> =
            frames.iter().filter(|captured| captured.is_kernels).map(|captured| &captured.frame).collect();
        let (mut resets, mut echoes, mut errors) = (0, 0, 0);
        for (index, answer) in kernels.iter().enumerate() {
            for cause in &kernels[..index] {
                resets += u32::from(lb_oracle::answer::reset(cause, answer).is_ok());
                echoes += u32::from(lb_oracle::answer::echo(cause, answer).is_ok());
                let error = lb_oracle::answer::Error::PortUnreachable;
                errors += u32::from(lb_oracle::answer::error(cause, answer, error, None).is_ok());
            }
        }
        assert!(resets >= 2 && echoes >= 2 && errors >= 2, "{resets} resets, {echoes} echo replies, {errors} errors");
    }
}
