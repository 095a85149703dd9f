//! Builds batches byte by byte for the tests, with every field open to be wrong.

use crc_fast::{CrcAlgorithm, checksum};

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Record {
    pub(crate) fn new(offset_delta: i32, timestamp_delta: i64, value: &[u8]) -> Self {
        Self {
            timestamp_delta,
            offset_delta,
            key: Some(b"key".to_vec()),
            value: Some(value.to_vec()),
            headers: vec![(b"h".to_vec(), Some(b"1".to_vec())), (b"h".to_vec(), None)],
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = vec![0];
        number(&mut body, self.timestamp_delta);
        number(&mut body, self.offset_delta.into());
        blob(&mut body, self.key.as_deref());
        blob(&mut body, self.value.as_deref());
        number(&mut body, self.headers.len() as i64);
        for (name, value) in &self.headers {
            blob(&mut body, Some(name));
            blob(&mut body, value.as_deref());
        }
        let mut record = Vec::new();
        number(&mut record, body.len() as i64);
        record.extend(body);
        record
    }
}

pub(crate) fn number(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push((zigzag as u8) | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn blob(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    number(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend(bytes.unwrap_or_default());
}

/// A batch; `seal` computes length and checksum over whatever stands here.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) base_offset: i64,
    pub(crate) magic: u8,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) record_count: i32,
    pub(crate) payload: Vec<u8>,
}

impl Batch {
    /// Three plain records at 1000, 1010 and 1005 ms.
    pub(crate) fn plain() -> Self {
        let records: Vec<u8> = [(0, 0), (1, 10), (2, 5)]
            .into_iter()
            .flat_map(|(offset, time)| Record::new(offset, time, &[b'v'; 100]).bytes())
            .collect();
        Self {
            base_offset: 0,
            magic: 2,
            attributes: 0,
            last_offset_delta: 2,
            base_timestamp: 1000,
            max_timestamp: 1010,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 3,
            payload: records,
        }
    }

    /// The same records in each codec, by attribute number.
    pub(crate) fn compressed(codec: i16) -> Self {
        let plain = Self::plain();
        Self { attributes: codec, payload: compress(codec, &plain.payload), ..plain }
    }

    pub(crate) fn seal(&self) -> Vec<u8> {
        let mut checked = Vec::new();
        checked.extend(self.attributes.to_be_bytes());
        checked.extend(self.last_offset_delta.to_be_bytes());
        checked.extend(self.base_timestamp.to_be_bytes());
        checked.extend(self.max_timestamp.to_be_bytes());
        checked.extend(self.producer_id.to_be_bytes());
        checked.extend(self.producer_epoch.to_be_bytes());
        checked.extend(self.base_sequence.to_be_bytes());
        checked.extend(self.record_count.to_be_bytes());
        checked.extend(&self.payload);
        let mut batch = self.base_offset.to_be_bytes().to_vec();
        batch.extend(i32::try_from(checked.len() + 9).unwrap().to_be_bytes());
        batch.extend((-1_i32).to_be_bytes());
        batch.push(self.magic);
        batch.extend(u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, &checked)).unwrap().to_be_bytes());
        batch.extend(checked);
        batch
    }
}

/// Compresses in the codec with this attribute number; 2 is raw Snappy, 102 Snappy in xerial's framing.
pub(crate) fn compress(codec: i16, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    match codec {
        1 => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        2 => snap::raw::Encoder::new().compress_vec(bytes).unwrap(),
        102 => {
            let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
            for block in bytes.chunks(64) {
                let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
                out.extend(u32::try_from(block.len()).unwrap().to_be_bytes());
                out.extend(block);
            }
            out
        }
        3 => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        4 => zstd::stream::encode_all(bytes, 3).unwrap(),
        _ => bytes.to_vec(),
    }
}
