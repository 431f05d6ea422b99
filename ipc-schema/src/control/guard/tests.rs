//! A hostile peer that writes messages of its own onto the connection.

use std::cell::RefCell;

use capnp::serialize::write_message_to_words;
use futures::executor::LocalPool;
use futures::io::Cursor;

use super::super::network;
use super::*;
use crate::plugin_capnp::metrics;

fn written(write: impl FnOnce(message::Builder<'_>)) -> Vec<u8> {
    let mut builder = Builder::new_default();
    write(builder.init_root());
    write_message_to_words(&builder)
}

fn call(question: u32) -> Vec<u8> {
    written(|message| {
        let mut call = message.init_call();
        call.set_question_id(question);
        call.set_interface_id(<metrics::Client as capnp::traits::HasTypeId>::TYPE_ID);
        call.reborrow().init_target().set_imported_cap(0);
        call.init_params();
    })
}

fn finish(question: u32) -> Vec<u8> {
    written(|message| message.init_finish().set_question_id(question))
}

/// What the guard says to these messages, and whether the connection went on.
fn said(callable: Callable, messages: &[Vec<u8>]) -> Option<Violation> {
    let violation = Rc::new(RefCell::new(None));
    let seen = Rc::clone(&violation);
    let violated = move |found| *seen.borrow_mut() = Some(found);
    let bytes = messages.concat();
    let mut guarded =
        guarded(|reader| network(reader, futures::io::sink(), Side::Client), Cursor::new(bytes), callable, violated);
    let mut pool = LocalPool::new();
    pool.run_until(async {
        let mut connection = guarded.connect(Side::Server).expect("the peer");
        while let Ok(Some(_)) = connection.receive_incoming_message().await {}
    });
    violation.take()
}

#[test]
fn what_is_no_answer_needs_a_granted_service() {
    let answer = written(|message| message.init_return().init_exception().set_reason("no"));
    assert_eq!(said(Callable::Nothing, &[answer.clone(), answer.clone()]), None);
    assert!(matches!(said(Callable::Nothing, &[answer.clone(), call(1)]), Some(Violation::Message(_))));
    assert!(matches!(said(Callable::Nothing, &[finish(1)]), Some(Violation::Message(_))));
    assert_eq!(said(Callable::Services, &[answer, call(1), finish(9)]), None);
}

#[test]
fn a_call_is_of_a_service_and_brings_nothing_else() {
    let to_an_answer = written(|message| {
        let mut call = message.init_call();
        call.reborrow().init_target().init_promised_answer().set_question_id(1);
        call.init_params();
    });
    let for_another = written(|message| {
        let mut call = message.init_call();
        call.reborrow().init_target().set_imported_cap(0);
        call.reborrow().init_send_results_to().set_yourself(());
        call.init_params();
    });
    let with_capability = written(|message| {
        let mut call = message.init_call();
        call.reborrow().init_target().set_imported_cap(0);
        call.init_params().init_cap_table(1).get(0).set_sender_hosted(1);
    });
    let bootstrap = written(|message| message.init_bootstrap().set_question_id(1));
    let resolve = written(|message| message.init_resolve().set_promise_id(1));
    let elsewhere = written(|message| message.init_return().set_take_from_other_question(1));
    let capabilities = written(|message| {
        message.init_return().init_results().init_cap_table(1000);
    });
    for hostile in [to_an_answer, for_another, with_capability, bootstrap, resolve, elsewhere, capabilities] {
        assert!(matches!(said(Callable::Services, &[call(7), hostile]), Some(Violation::Message(_))));
    }
    assert_eq!(said(Callable::Services, &[vec![0xff; 64]]), Some(unreadable(Error::failed(String::new()))));
}

#[test]
fn calls_are_bounded_in_number_size_and_rate() {
    let most = u32::try_from(MAX_CALLS_IN_FLIGHT).expect("small");
    let calls: Vec<_> = (0..=most).map(call).collect();
    assert_eq!(said(Callable::Services, &calls[..MAX_CALLS_IN_FLIGHT]), None);
    assert_eq!(said(Callable::Services, &calls), Some(Violation::TooMuch(Limit::CallsInFlight)));
    assert!(matches!(said(Callable::Services, &[call(1), finish(1)]), Some(Violation::Message(_))), "cancelled");

    let large = written(|message| {
        let mut call = message.init_call();
        call.reborrow().init_target().set_imported_cap(0);
        let bytes = u32::try_from(MAX_CALL_BYTES).expect("small");
        call.init_params().get_content().initn_as::<capnp::data::Builder<'_>>(bytes);
    });
    assert_eq!(said(Callable::Services, &[large]), Some(Violation::TooMuch(Limit::CallBytes)));

    // Twice what may come in a second, and far less than a second's work here.
    let flood: Vec<_> = (0..2 * MAX_MESSAGES_PER_SECOND).map(|_| finish(9)).collect();
    assert_eq!(said(Callable::Services, &flood), Some(Violation::TooMuch(Limit::Messages)));
}

#[test]
fn a_call_is_in_flight_until_its_answer_is_written_and_forgotten() {
    let most = u32::try_from(MAX_CALLS_IN_FLIGHT).expect("small");
    let mut calls = Calls::new(Instant::now());
    let check = |calls: &mut Calls, bytes: &[u8]| {
        let message = capnp::serialize::read_message(bytes, Default::default()).expect("ours");
        let which = message.get_root::<message::Reader<'_>>().and_then(|root| Ok(root.which()?)).expect("ours");
        calls.check(which, bytes.len() as u64, Instant::now())
    };
    let answers: Vec<_> = (0..most).map(|_| Rc::new(Builder::new_default())).collect();
    for (question, answer) in (0..most).zip(&answers) {
        check(&mut calls, &call(question)).expect("within the limit");
        calls.answered(question, question % 2 == 0, Rc::downgrade(answer));
    }
    let too_many = Err(Violation::TooMuch(Limit::CallsInFlight));
    assert_eq!(check(&mut calls, &call(most)), too_many, "none of the answers is written");
    drop(answers);
    for question in most..most + most / 2 {
        check(&mut calls, &call(question)).expect("in the place of an answer that needed no finish");
        calls.answered(question, false, Weak::new());
    }
    for question in 0..most {
        check(&mut calls, &finish(question)).expect("of an answered call, or of none");
    }
    for question in 0..most {
        check(&mut calls, &call(question)).expect("all are forgotten");
    }
    assert_eq!(check(&mut calls, &call(most)), too_many);
}
