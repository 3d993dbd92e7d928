-- Room beside the hot rows: an event that sells has its row and its private row rewritten
-- with each batch, and while the new version fits on the page of the old one no index
-- changes and the page cleans itself.
--
-- Runs while the version before it serves: yes, pages change as they are written.
-- depends: 0014_due_holds

set local lock_timeout = '2s';
set local statement_timeout = '10min';

alter table events set (fillfactor = 50);
alter table event_private set (fillfactor = 50);
