"""From the bytes of a message to its fields, texts, parts, thread and search terms. Pure: no clock, no files, no
network.

    parse_summary / parse / part_content     what a message says (parser)
    encode_summary … open_summary            the encrypted column of the database (summary)
    header_digest_input                      what identifies a message for tombstones (headers)
    message_terms / query_terms              search (tokens)
    thread_links                             conversations (threads)
    sanitize_html                            HTML that may be shown (html)
"""

from mailgate.messages.headers import header_block, header_digest_input
from mailgate.messages.html import html_to_text, sanitize_html
from mailgate.messages.model import Address, Limits, ParsedMessage, Part, Summary
from mailgate.messages.parser import parse, parse_summary, part_content
from mailgate.messages.summary import SummaryCorruptError, decode_summary, encode_summary, open_summary, seal_summary
from mailgate.messages.threads import thread_links
from mailgate.messages.tokens import MessageTerms, QueryTerms, address_terms, message_terms, query_terms, words

__all__ = [
    "Address",
    "Limits",
    "MessageTerms",
    "ParsedMessage",
    "Part",
    "QueryTerms",
    "Summary",
    "SummaryCorruptError",
    "address_terms",
    "decode_summary",
    "encode_summary",
    "header_block",
    "header_digest_input",
    "html_to_text",
    "message_terms",
    "open_summary",
    "parse",
    "parse_summary",
    "part_content",
    "query_terms",
    "sanitize_html",
    "seal_summary",
    "thread_links",
    "words",
]
