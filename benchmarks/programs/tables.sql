-- An in-memory database: inserts, indices, joins, text.
PRAGMA temp_store = MEMORY;
CREATE TABLE item (id INTEGER PRIMARY KEY, grp INTEGER, name TEXT, weight REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
INSERT INTO item SELECT i, i * 7919 % 1000, 'item number ' || (i * 104729 % 1000003), i * 0.5 FROM n;
CREATE INDEX item_name ON item (name);
CREATE INDEX item_grp ON item (grp, weight);
CREATE TABLE grp AS SELECT grp AS id, count(*) AS items, group_concat(substr(name, 13, 3)) AS tags FROM item GROUP BY grp;
SELECT count(*), sum(length(tags)) FROM grp;
SELECT sum(a.weight * g.items) FROM item a JOIN grp g ON g.id = a.grp WHERE a.name LIKE '%77%';
UPDATE item SET name = name || ' changed' WHERE grp % 3 = 0;
SELECT count(DISTINCT substr(name, 1, 16)) FROM item;
DELETE FROM item WHERE grp % 2 = 0;
SELECT count(*), max(length(name)) FROM item;
