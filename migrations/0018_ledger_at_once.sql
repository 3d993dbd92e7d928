-- The ledger row is written by the statement that moves the tickets, with the event's next
-- version, and no longer drafted for a last statement to write: of a batch that moves one kind of
-- thing an event is written once and not four times. What a stranger's old transaction keeps
-- from being cleaned away grows four times as slowly, and so does what each look at the
-- event has to walk past.
--
-- Runs while the version before it serves: no, that version drafts.
-- squawk-ignore-file ban-drop-column
-- depends: 0017_drawn_ids

set local lock_timeout = '2s';
set local statement_timeout = '10min';

-- The row of the ledger for an event that has just changed: what was done to how many tickets,
-- and by whom; null for the organiser and for the clock. In a FROM clause it is planned as if
-- its query stood there.
create function ledger_entry(event events, kind event_change, tickets integer, fingerprint text)
returns setof event_ledger
language sql
stable
parallel safe
as $$
    select
        event.id,
        event.version,
        event.updated_at,
        event.total_tickets,
        event.allocated_tickets,
        event.purchased_tickets,
        case kind when 'reserved' then tickets else 0 end,
        case kind when 'purchased' then tickets else 0 end,
        case kind when 'expired' then tickets else 0 end,
        case kind when 'user_cancelled' then tickets else 0 end,
        case kind when 'refunded' then tickets else 0 end,
        kind,
        (
            select actor_name(mine.secret, fingerprint)::varchar
            from event_private as mine
            where mine.event_id = event.id
        )
$$;

alter table event_private
drop column kind,
drop column actor,
drop column reserved,
drop column purchased,
drop column expired,
drop column cancelled,
drop column refunded;
