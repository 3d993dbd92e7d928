-- Loses the secrets: a key that was used before reserves anew when it is repeated.

set local lock_timeout = '2s';
set local statement_timeout = '10min';

drop trigger events_open_private on events;
drop function open_event_private();
drop function actor_name(uuid, text);
drop function reservation_id_for_key(uuid, text, text);
drop table event_private;
drop type event_change;
