//! `stratalog.meta`, which identifies a directory as one of our logs.

use std::fmt;

use super::FormatError;
use super::fields::Fields;

const MAGIC: [u8; 4] = *b"STLM";
const VERSION: u16 = 1;

/// The identity of a log directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// A random id, created with the directory.
    pub log_id: [u8; 16],
    /// The random secret for hashing keys. Without it nobody can construct keys that collide.
    pub hash_secret: [u8; 16],
}

impl Meta {
    /// The size of the file, in bytes.
    pub const LEN: usize = 42;
    const CHECKED_LEN: usize = Meta::LEN - 4;

    /// Encodes the file: magic, version, id, secret, and a CRC-32 over them.
    pub fn encode(&self) -> [u8; Meta::LEN] {
        let mut bytes = [0; Meta::LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_be_bytes());
        bytes[6..22].copy_from_slice(&self.log_id);
        bytes[22..38].copy_from_slice(&self.hash_secret);
        let crc = crc32fast::hash(&bytes[..Meta::CHECKED_LEN]);
        bytes[Meta::CHECKED_LEN..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Decodes the whole file. A newer version is [`FormatError::BadVersion`], whatever else has changed.
    pub fn decode(bytes: &[u8]) -> Result<Meta, FormatError> {
        let mut fields = Fields(bytes);
        if fields.array()? != MAGIC {
            return Err(FormatError::BadMagic);
        }
        let version = fields.u16()?;
        if version != VERSION {
            return Err(FormatError::BadVersion { found: version.into(), supported: VERSION.into() });
        }
        let meta = Meta { log_id: fields.array()?, hash_secret: fields.array()? };
        let stored = fields.u32()?;
        fields.end()?;
        let computed = crc32fast::hash(bytes.get(..Meta::CHECKED_LEN).unwrap_or_default());
        if stored == computed { Ok(meta) } else { Err(FormatError::BadCrc { stored, computed }) }
    }
}

/// Hides the secret.
impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meta {{ log_id: {:032x}, .. }}", u128::from_be_bytes(self.log_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta { log_id: [7; 16], hash_secret: [9; 16] };

    #[test]
    fn the_file_survives_a_round_trip_and_hides_its_secret() {
        assert_eq!(Meta::decode(&META.encode()), Ok(META));
        assert!(!format!("{META:?}").contains('9'));
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_an_error() {
        let bytes = META.encode();
        for bit in 0..Meta::LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..Meta::LEN {
            assert!(Meta::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert!(Meta::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = META.encode();
        bytes[5] = 2;
        assert_eq!(Meta::decode(&bytes), Err(FormatError::BadVersion { found: 2, supported: 1 }));
    }
}
