-- Loses nothing: names stay in NFC.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop trigger events_normalize_name on events;
drop function normalize_event_name();
drop function name_for_search(text);
