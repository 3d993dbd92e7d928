-- Loses the secrets: a request that is repeated with a key used before reserves again.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop trigger events_have_a_secret on events;
drop function add_event_secret();
drop function actor_name(uuid, text);
drop function reservation_id_for_key(uuid, text, text);
drop table event_private;
