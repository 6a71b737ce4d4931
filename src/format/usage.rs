//! `stratalog.use`: whether a log directory is open, and the checksum of Kafka's checkpoint files beside it.
//!
//! Text of four lines. The first is `stratalog.use 1`. `log` has `o` for an open log, `c` for a closed one, `-` for one
//! that is being closed. `checkpoints` has the CRC-32 of the checkpoint files as we know them, in 8 hexadecimal digits,
//! or `-` if they were not all there. `crc` has the CRC-32 of the line before. Opening changes one byte of the file, in
//! place. So a crash leaves the old or the new byte, and no room is needed. A single flipped bit never turns one of the
//! letters into another.

use super::FormatError;
use super::file_name::USE;

const VERSION: u32 = 1;

/// The contents of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Whether the log is open.
    pub phase: Phase,
    /// The CRC-32 of Kafka's four checkpoint files as we found or left them; `None` if they were not all there.
    pub checkpoints: Option<u32>,
}

/// Whether a log is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It is open, or its process ended without closing it.
    Open,
    /// It was closed cleanly.
    Closed,
    /// It is being closed: Kafka's checkpoint files are being written.
    Closing,
}

impl Usage {
    /// Encodes the whole file.
    pub fn encode(&self) -> String {
        let phase = match self.phase {
            Phase::Open => 'o',
            Phase::Closed => 'c',
            Phase::Closing => '-',
        };
        let checkpoints = self.checkpoints.map_or_else(|| "-".to_owned(), |crc| format!("{crc:08x}"));
        let checkpoints = format!("checkpoints {checkpoints}\n");
        let crc = crc32fast::hash(checkpoints.as_bytes());
        format!("{USE} {VERSION}\nlog {phase}\n{checkpoints}crc {crc:08x}\n")
    }

    /// Decodes the whole file, in which every byte counts. A newer version is [`FormatError::BadVersion`].
    pub fn decode(bytes: &[u8]) -> Result<Usage, FormatError> {
        let malformed = FormatError::Malformed("use of a log");
        let text = std::str::from_utf8(bytes).map_err(|_| malformed.clone())?;
        let field = |name: &str, line: Option<&str>| Some(line?.strip_prefix(name)?.strip_prefix(' ')?.to_owned());
        let mut lines = text.lines();
        let version = field(USE, lines.next()).and_then(|version| version.parse().ok());
        match version {
            Some(VERSION) => {}
            Some(found) => return Err(FormatError::BadVersion { found, supported: VERSION }),
            None => return Err(FormatError::BadMagic),
        }
        let phase = match field("log", lines.next()).as_deref() {
            Some("o") => Phase::Open,
            Some("c") => Phase::Closed,
            Some("-") => Phase::Closing,
            _ => return Err(malformed),
        };
        let checkpoints = match field("checkpoints", lines.next()).as_deref() {
            Some("-") => None,
            crc => Some(crc.and_then(|crc| u32::from_str_radix(crc, 16).ok()).ok_or(malformed.clone())?),
        };
        let usage = Usage { phase, checkpoints };
        if usage.encode().as_bytes() == bytes { Ok(usage) } else { Err(malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 3] = [Phase::Open, Phase::Closed, Phase::Closing];

    #[test]
    fn the_file_survives_a_round_trip_and_phases_differ_in_one_byte() {
        for checkpoints in [None, Some(0), Some(u32::MAX)] {
            let files = PHASES.map(|phase| Usage { phase, checkpoints }.encode().into_bytes());
            for (phase, file) in PHASES.into_iter().zip(&files) {
                assert_eq!(Usage::decode(file), Ok(Usage { phase, checkpoints }));
                let others = files.iter().filter(|other| *other != file);
                for other in others {
                    assert_eq!(file.len(), other.len());
                    assert_eq!(file.iter().zip(other).filter(|(a, b)| a != b).count(), 1);
                }
            }
        }
    }

    #[test]
    fn what_is_not_such_a_file_is_an_error() {
        let file = Usage { phase: Phase::Open, checkpoints: Some(7) }.encode().into_bytes();
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Usage::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..file.len() {
            assert!(Usage::decode(&file[..len]).is_err(), "{len}");
        }
        assert!(Usage::decode(&[&file[..], b"\n"].concat()).is_err());
        assert!(Usage::decode(&file.to_ascii_uppercase()).is_err());
        let newer = String::from_utf8(file).unwrap().replace("use 1", "use 2");
        assert_eq!(Usage::decode(newer.as_bytes()), Err(FormatError::BadVersion { found: 2, supported: 1 }));
    }
}
