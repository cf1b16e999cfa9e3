"""PostgreSQL: the pool, the migrations, and the queries, a file a subject. Instants go in and come out as integer ms."""
