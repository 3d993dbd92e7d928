-- Two further ends of a ticket: its owner gave the hold back, or the organiser the money.
--
-- Runs while the version before it serves: yes, no row has the new values yet.
-- depends: 0009_events_are_unique

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter type allocation_status add value if not exists 'user_cancelled' after 'expired';
alter type allocation_status add value if not exists 'refunded' after 'user_cancelled';
