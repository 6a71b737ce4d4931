use super::*;

fn parse(format: &Format, text: &str) -> Block {
    let mut block = Block { text: text.as_bytes().to_vec(), first_line: 1, ..Block::default() };
    block.parse(format);
    block
}

const JSON: Format = Format::Json { text: false };

#[test]
fn tab_separated_values_are_taken_as_they_are() {
    let block = parse(&Format::Tsv, "5\tk\tv\n-7\t\t\n9223372036854775807\ta b\tc\r");
    assert_eq!(block.len(), 3);
    let record = |at| block.record(at, &[]);
    assert_eq!(record(0), Record::new("k", "v").at(Timestamp::from_millis(5)));
    assert_eq!(record(1), Record::tombstone("").at(Timestamp::from_millis(-7)));
    assert_eq!(record(2), Record::new("a b", "c\r").at(Timestamp::from_millis(i64::MAX)));
    assert!(block.error.is_none());
}

#[test]
fn a_line_that_would_not_be_written_back_the_same_is_refused() {
    let bad = ["", "x", "5", "5\tk", "\tk\tv", "05\tk\tv", "+5\tk\tv", "-0\tk\tv", "5\tk\tv\tw", "5 \tk\tv"];
    for line in bad.into_iter().chain(["9223372036854775808\tk\tv", "-\tk\tv", "-9223372036854775809\tk\tv"]) {
        let block = parse(&Format::Tsv, &format!("1\tk\tv\n{line}\n2\tk\tv\n"));
        assert_eq!(block.len(), 1, "{line:?}");
        assert_eq!(block.error.as_ref().map(|error| error.line), Some(2), "{line:?}");
    }
    assert_eq!(millis(b"-9223372036854775808"), Some(i64::MIN));
}

#[test]
fn lines_have_keys_and_tombstones_where_they_are_told_apart() {
    let plain = parse(&Format::Lines { separator: None, null: None }, "a\tb\n\nc");
    assert_eq!(plain.len(), 3);
    assert_eq!(plain.record(0, &[]), Record::keyless("a\tb"));
    assert_eq!(plain.record(1, &[]), Record::keyless(""));
    let format = Format::Lines { separator: Some(b": ".to_vec()), null: Some(b"NULL".to_vec()) };
    let keyed = parse(&format, "a: b: c\nd: NULL\ne: \nf:\n");
    assert_eq!(keyed.record(0, &[]), Record::new("a", "b: c"));
    assert_eq!(keyed.record(1, &[]), Record::tombstone("d"));
    assert_eq!(keyed.record(2, &[]), Record::new("e", ""));
    assert_eq!(keyed.error.as_ref().map(|error| error.line), Some(4));
}

#[test]
fn objects_have_bytes_headers_and_other_fields() {
    let text = concat!(
        r#"{"offset":0,"timestamp":17,"key":"azE=","value":null,"headers":[["h","MQ=="],["",null],[{"base64":"/w=="},""]]}"#,
        "\n",
        r#"{"emptyBatch":true,"batchCount":0}"#,
        "\n\n",
        r#"{"value":"","control":false}"#,
        "\n",
        r#"{"offset":3,"key":"AAAAAQ==","value":"AAA=","control":true}"#
    );
    let block = parse(&JSON, text);
    assert_eq!(block.error, None);
    let headers = block.headers();
    assert_eq!(block.len(), 2);
    let first = block.record(0, &headers);
    assert_eq!((first.key, first.value, first.timestamp), (Some(&b"k1"[..]), None, Some(Timestamp::from_millis(17))));
    let names: Vec<(&[u8], Option<&[u8]>)> = first.headers.iter().map(|header| (header.key, header.value)).collect();
    assert_eq!(names, [(&b"h"[..], Some(&b"1"[..])), (b"", None), (&[0xff], Some(b""))]);
    assert_eq!(block.record(1, &headers), Record::keyless(""));
    assert_eq!(block.line(1), 4);
    let plain = parse(&Format::Json { text: true }, r#"{"key":"ü\n","value":"v"}"#);
    assert_eq!(plain.record(0, &[]), Record::new("ü\n", "v"));
}

#[test]
fn objects_that_are_no_records_are_refused() {
    for line in ["{}", "1", "{\"value\":1}", "{\"value\":\"?\"}", "{\"value\":\"\",\"timestamp\":1.5}", "\u{0}", "{"] {
        let block = parse(&JSON, &format!("{{\"value\":\"\"}}\n{line}"));
        assert_eq!((block.len(), block.error.as_ref().map(|error| error.line)), (1, Some(2)), "{line:?}");
    }
}
