-- Set updated_at on every update, also on one typed by hand into psql.
--
-- It takes statement_timestamp() and not now(): a transaction that waited for an event's lock
-- began before the transaction that it waited for, but its change comes after. It takes the
-- greater of the clock and the old value, because a server's clock can be set back and the
-- history of an event must not go back with it.
--
-- Runs while the version before it serves: yes.
-- depends: 0003_index_ticket_allocations

set local lock_timeout = '2s';
set local statement_timeout = '10min';

create function touch_updated_at() returns trigger
language plpgsql
set search_path from current
as $$
begin
    new.updated_at := greatest(statement_timestamp(), old.updated_at);
    return new;
end
$$;

create trigger events_touch_updated_at
before update on events
for each row execute function touch_updated_at();

create trigger ticket_allocations_touch_updated_at
before update on ticket_allocations
for each row execute function touch_updated_at();
