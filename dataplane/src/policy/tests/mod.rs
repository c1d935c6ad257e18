//! Policies in, tables out; and the same question to the tables and to the words of the API.

mod naive;
mod property;
mod words;
