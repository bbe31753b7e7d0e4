//! DNS packets: reading questions, writing answers that fit.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::TTL;
use super::answer::{Data, Kind, Question, Resource};

/// The largest UDP answer to a client that does not say what it takes.
const PLAIN_LIMIT: usize = 512;
/// The largest UDP answer to any client; TCP takes more.
const EDNS_LIMIT: u16 = 4096;
const STREAM_LIMIT: usize = 65_535;

/// A query that can be answered.
#[derive(Debug)]
pub(super) struct Inquiry {
    message: Message,
    query: Query,
    /// What is asked.
    pub question: Question,
    /// The largest answer that the client takes.
    limit: usize,
}

/// What to do with a packet.
#[derive(Debug)]
pub(super) enum Reading {
    /// Answer the question.
    Ask(Box<Inquiry>),
    /// Answer with this packet.
    Refuse(Vec<u8>),
    /// It is no question: say nothing.
    Ignore,
}

/// Reads a packet from a client.
pub(super) fn read(packet: &[u8], tcp: bool) -> Reading {
    let Some(header) = packet.first_chunk::<12>() else {
        return Reading::Ignore;
    };
    let is_response = header[2] & 0x80 != 0;
    if is_response {
        return Reading::Ignore;
    }
    let number = u16::from_be_bytes([header[0], header[1]]);
    let refuse = |code| Reading::Refuse(bare(number, code));
    let Ok(message) = Message::from_vec(packet) else {
        return refuse(ResponseCode::FormErr);
    };
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [query] = message.queries.as_slice() else {
        return refuse(ResponseCode::FormErr);
    };
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return refuse(ResponseCode::Refused);
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(ResponseCode::BADVERS);
    }
    let limit = match (tcp, &message.edns) {
        (true, _) => STREAM_LIMIT,
        (false, Some(edns)) => usize::from(edns.max_payload().clamp(512, EDNS_LIMIT)),
        (false, None) => PLAIN_LIMIT,
    };
    let query = query.clone();
    Reading::Ask(Box::new(Inquiry {
        question: question(&query),
        query,
        message,
        limit,
    }))
}

fn question(query: &Query) -> Question {
    let labels = query.name().iter();
    Question {
        labels: labels
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect(),
        kind: match query.query_type() {
            RecordType::A | RecordType::ANY => Kind::A,
            RecordType::AAAA => Kind::Aaaa,
            RecordType::CNAME => Kind::Cname,
            RecordType::SRV => Kind::Srv,
            RecordType::PTR => Kind::Ptr,
            RecordType::TXT => Kind::Txt,
            RecordType::NS => Kind::Ns,
            RecordType::SOA => Kind::Soa,
            _ => Kind::Other,
        },
    }
}

/// A response that says only what is wrong.
fn bare(number: u16, code: ResponseCode) -> Vec<u8> {
    let message = Message::error_msg(number, OpCode::Query, code);
    message.to_vec().unwrap_or_default()
}

impl Inquiry {
    /// A response with records.
    pub fn found(&self, answers: &[Resource], additionals: &[Resource], zone: &str) -> Vec<u8> {
        let mut response = self.response(ResponseCode::NoError, true);
        let own = self.query.name();
        response.answers = answers
            .iter()
            .filter_map(|resource| record(resource, own, zone))
            .collect();
        response.additionals = additionals
            .iter()
            .filter_map(|resource| record(resource, own, zone))
            .collect();
        self.fit(response)
    }

    /// A response that says that there is no such record or name, and who says so.
    pub fn nothing(&self, name_exists: bool, zone: &str) -> Vec<u8> {
        let code = match name_exists {
            true => ResponseCode::NoError,
            false => ResponseCode::NXDomain,
        };
        let mut response = self.response(code, true);
        if let (Ok(apex), Some(soa)) = (Name::from_ascii(zone), soa(zone)) {
            response
                .authorities
                .push(Record::from_rdata(apex, TTL, RData::SOA(soa)));
        }
        self.fit(response)
    }

    /// A response that says that this server could not find out.
    pub fn failed(&self) -> Vec<u8> {
        self.fit(self.response(ResponseCode::ServFail, false))
    }

    /// The packet that asks for another name with the same kind of record.
    pub fn for_target(&self, target: &str) -> Option<Vec<u8>> {
        let name = Name::from_ascii(target).ok()?;
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, self.query.query_type()));
        message.to_vec().ok()
    }

    /// The name asked for is `target`, about which a resolver (or this server) gave `packet`.
    pub fn through(&self, target: &str, packet: Option<&[u8]>) -> Vec<u8> {
        let found = packet.and_then(|packet| Message::from_vec(packet).ok());
        let mut response = self.response(ResponseCode::NoError, true);
        if let Ok(name) = Name::from_ascii(target) {
            let cname = RData::CNAME(CNAME(name));
            let own = self.query.name().clone();
            response.answers.push(Record::from_rdata(own, TTL, cname));
        }
        response
            .answers
            .extend(found.into_iter().flat_map(|message| message.answers));
        self.fit(response)
    }

    fn response(&self, code: ResponseCode, authoritative: bool) -> Message {
        let request = &self.message.metadata;
        let mut metadata = Metadata::new(request.id, MessageType::Response, OpCode::Query);
        metadata.recursion_desired = request.recursion_desired;
        metadata.checking_disabled = request.checking_disabled;
        metadata.recursion_available = true;
        metadata.authoritative = authoritative;
        metadata.response_code = code;
        let mut message = Message::response(request.id, OpCode::Query);
        message.metadata = metadata;
        message.add_query(self.query.clone());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(EDNS_LIMIT).set_version(0);
            message.edns = Some(edns);
        }
        message
    }

    /// Leaves out what the client cannot take, and tells it to ask again over TCP.
    fn fit(&self, mut response: Message) -> Vec<u8> {
        let encode = |response: &Message| {
            let failed = || bare(self.message.metadata.id, ResponseCode::ServFail);
            response.to_vec().unwrap_or_else(|_| failed())
        };
        let mut packet = encode(&response);
        if packet.len() <= self.limit {
            return packet;
        }
        // Additional records are a courtesy: without them the answer is still whole.
        response.additionals.clear();
        packet = encode(&response);
        if packet.len() <= self.limit {
            return packet;
        }
        response.metadata.truncation = true;
        response.authorities.clear();
        let answers = std::mem::take(&mut response.answers);
        // As many as fit; names are compressed, so that the size of one is not known beforehand.
        let (mut fits, mut too_many) = (0, answers.len());
        packet = encode(&response);
        while fits + 1 < too_many {
            let keep = fits.midpoint(too_many);
            response.answers = answers.iter().take(keep).cloned().collect();
            let attempt = encode(&response);
            if attempt.len() <= self.limit {
                (fits, packet) = (keep, attempt);
            } else {
                too_many = keep;
            }
        }
        packet
    }
}

fn record(resource: &Resource, own: &Name, zone: &str) -> Option<Record> {
    let name = match &resource.name {
        Some(name) => Name::from_ascii(name).ok()?,
        None => own.clone(),
    };
    let data = match &resource.data {
        Data::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
        Data::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
        Data::Cname(target) => RData::CNAME(CNAME(Name::from_ascii(target).ok()?)),
        Data::Srv {
            weight,
            port,
            target,
        } => RData::SRV(SRV::new(0, *weight, *port, Name::from_ascii(target).ok()?)),
        Data::Ptr(target) => RData::PTR(PTR(Name::from_ascii(target).ok()?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::Ns(target) => RData::NS(NS(Name::from_ascii(target).ok()?)),
        Data::Soa => RData::SOA(soa(zone)?),
    };
    Some(Record::from_rdata(name, TTL, data))
}

/// The start of authority of the cluster's domain; its minimum is how long "no" may be kept.
fn soa(zone: &str) -> Option<SOA> {
    let server = Name::from_ascii(format!("ns.dns.{zone}")).ok()?;
    let master = Name::from_ascii(format!("hostmaster.{zone}")).ok()?;
    Some(SOA::new(server, master, 1, 7200, 1800, 86_400, TTL))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid() -> Vec<u8> {
        let mut message = Message::query();
        let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
        message.add_query(Query::query(name, RecordType::SRV));
        message.edns = Some(Edns::new());
        message.to_vec().unwrap()
    }

    proptest! {
        #[test]
        fn no_packet_breaks_it(packet in prop::collection::vec(any::<u8>(), 0..80), tcp: bool) {
            let _ = read(&packet, tcp);
        }

        #[test]
        fn nor_does_a_damaged_one(at in 0..60usize, value: u8, cut in 0..80usize, tcp: bool) {
            let mut packet = valid();
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
            packet.truncate(cut.max(12));
            if let Reading::Ask(inquiry) = read(&packet, tcp) {
                let data = Data::Srv { weight: 1, port: 2, target: "a.b.".into() };
                let records = vec![Resource { name: None, data }; 100];
                let answer = inquiry.found(&records, &records, "cluster.local.");
                prop_assert!(answer.len() <= inquiry.limit);
                prop_assert_eq!(&answer[..2], &packet[..2]);
                prop_assert!(inquiry.nothing(false, "cluster.local.").len() <= inquiry.limit);
            }
        }
    }
}
