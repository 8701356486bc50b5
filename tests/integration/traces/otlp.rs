//! Reads what a collector receives: `ExportTraceServiceRequest` of OTLP, in protobuf.

use std::collections::BTreeMap;

/// A span as OTLP has it.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) service: String,
    pub(super) name: String,
    pub(super) trace: String,
    pub(super) id: String,
    pub(super) parent: String,
    pub(super) kind: u64,
    attributes: BTreeMap<String, String>,
}

pub(super) const SERVER: u64 = 2;
pub(super) const CLIENT: u64 = 3;
pub(super) const PRODUCER_KIND: u64 = 4;
pub(super) const CONSUMER: u64 = 5;

impl Span {
    /// The spans of any number of bodies: behind one another they are one.
    pub(super) fn all(bodies: &[u8]) -> Vec<Self> {
        let mut spans = Vec::new();
        for of_resource in parts(bodies, 1) {
            let service = parts(of_resource, 1)
                .flat_map(|resource| attributes(resource, 1))
                .find(|(name, _)| name == "service.name");
            let service = service.map_or_else(String::new, |(_, value)| value);
            for span in parts(of_resource, 2).flat_map(|scope| parts(scope, 2)) {
                spans.push(Self::read(span, &service));
            }
        }
        spans
    }

    fn read(span: &[u8], service: &str) -> Self {
        let part = |number| parts(span, number).next().unwrap_or_default();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            service: service.to_owned(),
            name: text(part(5)),
            trace: hex(part(1)),
            id: hex(part(2)),
            parent: hex(part(4)),
            kind: numbers(span, 6).next().unwrap_or_default(),
            attributes: attributes(span, 9).collect(),
        }
    }

    pub(super) fn is_child_of(&self, other: &Self) -> bool {
        self.parent == other.id && self.trace == other.trace
    }

    pub(super) fn get(&self, attribute: &str) -> Option<&str> {
        self.attributes.get(attribute).map(String::as_str)
    }
}

enum Field<'a> {
    Number(u64),
    Part(&'a [u8]),
}

/// The fields of a protobuf message.
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = match tag & 7 {
            0 => {
                fields.push((tag >> 3, Field::Number(varint(&mut message))));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)).expect("a length"),
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (part, rest) = message.split_at(length);
        fields.push((tag >> 3, Field::Part(part)));
        message = rest;
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a number that ends");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

fn parts(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).into_iter().filter_map(move |field| match field {
        (found, Field::Part(part)) if found == number => Some(part),
        _ => None,
    })
}

fn numbers(message: &[u8], number: u64) -> impl Iterator<Item = u64> {
    fields(message).into_iter().filter_map(move |field| match field {
        (found, Field::Number(value)) if found == number => Some(value),
        _ => None,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Attributes whose values are texts or integers.
fn attributes(message: &[u8], number: u64) -> impl Iterator<Item = (String, String)> {
    parts(message, number).filter_map(|pair| {
        let (name, value) = (parts(pair, 1).next()?, parts(pair, 2).next()?);
        let value = match parts(value, 1).next() {
            Some(value) => text(value),
            None => numbers(value, 3).next()?.to_string(),
        };
        Some((text(name), value))
    })
}
